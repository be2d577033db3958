"""The reference pipeline's picture, in PyTorch and FP32, of the authors' state dicts themselves."""

import json

import numpy as np

from toolkit.check_sd15.case import PICTURES, REQUEST, Files
from toolkit.convert.sources import read_authors
from toolkit.reference.networks import TorchNetworks
from toolkit.reference.pipeline import Pipeline, Request


def draw(files: Files) -> None:
    """Of the family that was converted, only pipeline.json and the tokenizer are used."""
    family, _ = read_authors(files.stable_diffusion, files.sdm, files.tdm, files.image_encoder)
    prompt, subjects = PICTURES["picture"]
    pipeline = Pipeline(files.family, TorchNetworks(family))
    result = pipeline.generate(Request(prompt, [path.read_bytes() for path in subjects], **REQUEST))
    fused = {i: step for i, step in enumerate(result.steps) if step.mask is not None}
    about = {
        "sdm_share": {i: float(step.mask.float().mean()) for i, step in fused.items()},
        # The nearer to 0, the less it takes to give a pixel to the other model.
        "nearest_tie": min(float(step.log_saliency_difference.abs().min()) for step in fused.values()),
        "noise_std": [float(step.noise.std()) for step in result.steps],
        "latents_std": [float(step.latents.std()) for step in result.steps],
    }
    files.reference.mkdir(exist_ok=True)
    np.save(files.reference / "latents.npy", (result.latents / pipeline.family["scaling_factor"]).numpy())
    (files.reference / "picture.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    result.picture.save(files.reference / "picture.png")
    print(json.dumps(about))
