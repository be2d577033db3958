"""pipeline.json: what the gateway must know of a family beside the shapes of its models."""

import hashlib
from pathlib import Path

import torch
from torch.nn import functional as F

from toolkit.data import captions
from toolkit.export.onnx_file import DATA
from toolkit.export.triton import SAFETY_CHECKER
from toolkit.models import MINI, Family

# Nouns after which the marker of a subject may be placed for the user, where a family takes any
# sentence; singular only.
PERSON_NOUNS = [
    "woman", "man", "girl", "boy", "lady", "gentleman", "guy", "person", "child", "kid", "baby", "teenager",
    "mother", "father", "grandmother", "grandfather", "sister", "brother", "friend",
    "actor", "actress", "astronaut", "chef", "doctor", "king", "queen", "student", "teacher",
]  # fmt: skip

DESCRIPTION = "A small Face-Diffuser of cartoon people: Stable Diffusion 1.5's architecture at 128x128 pixels."
LICENSE = "Apache-2.0"  # of what was trained from nothing, on the generated world
# Guidance and stages of the authors' script (scripts/run_inference.sh): 5, and 15 and 30 of 50 steps.
DEFAULTS = {
    "scheduler": "ddim",
    "num_inference_steps": 50,
    "guidance_scale": 5.0,
    "start_merge_fraction": 0.3,
    "final_fraction": 0.6,
    "eta": 0.0,
}
# Each may name a `scheduler` too.
QUALITY = {name: {"num_inference_steps": steps} for name, steps in (("low", 20), ("medium", 30), ("high", 50))}
# A larger share of subject enhancement follows the reference more closely.
INPUT_FIDELITY = {
    "low": {"start_merge_fraction": 0.4, "final_fraction": 0.8},
    "high": {"start_merge_fraction": 0.1, "final_fraction": 0.4},
}
# Every step is scene construction, so that the gateway refuses requests with subjects. A subject model that has learnt
# nothing of references would answer them with worse pictures than none: what a random fuser writes into a subject's
# token, the UNet has never seen.
NO_SUBJECTS = {"start_merge_fraction": 1.0, "final_fraction": 1.0}
SCHEDULE_KEYS = [
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "steps_offset", "set_alpha_to_one",
    "clip_sample", "timestep_spacing", "prediction_type",
]  # fmt: skip


Preview = tuple[list[list[float]], list[float]]  # matrix [4][3] and bias [3] from scaled latents to RGB


def describe(family: Family, models: Path, preview: Preview, created: int, safety_checker: bool = False) -> dict:
    """`family.config` may carry `name`, `description` and `license`, and `defaults` and `input_fidelity` chosen on
    validation data; what it does not is the mini family's, or the paper's.

    preview: of fit_preview. safety_checker: whether `models` holds one.
    """
    matrix, bias = preview
    config = family.config
    name = config.get("name", family.preset.name)
    bounds = NO_SUBJECTS if config.get("random_fuser") else {}
    fidelity = {**INPUT_FIDELITY, **config.get("input_fidelity", {})}
    return {
        "name": name,
        "aliases": [f"facediffuser-{name}", "face-diffuser"],
        "description": config.get("description", DESCRIPTION),
        "license": config.get("license", LICENSE),
        "created": created,
        "schedule": {key: family.scheduler.config[key] for key in SCHEDULE_KEYS},
        "scaling_factor": config["scaling_factor"],
        "object_resolution": config["preset"]["image_size"],
        "defaults": {**DEFAULTS, **config.get("defaults", {}), **bounds},
        "limits": {"max_inference_steps": 200, "min_guidance_scale": 0.0, "max_guidance_scale": 20.0},
        "quality": QUALITY,
        "input_fidelity": {level: {**values, **bounds} for level, values in fidelity.items()},
        "preview_matrix": matrix,
        "preview_bias": bias,
        **wording(family.preset.name),
        **({"safety_checker": True} if safety_checker else {}),
        "weights_sha256": weights_sha256(models),
    }


def wording(preset: str) -> dict:
    """`person_nouns`, and `vocabulary` (group -> phrases) for the family that has learnt its words
    from the captions of `toolkit.data` alone; the others take any sentence."""
    if preset == MINI.name:
        return {"person_nouns": captions.person_nouns(), "vocabulary": captions.vocabulary()}
    return {"person_nouns": PERSON_NOUNS}


@torch.no_grad()
def fit_preview(family: Family, pictures: torch.Tensor) -> Preview:
    """Least squares from latents (times the scaling factor) to RGB of the picture shrunk to their
    size, for previews that cost no decoder. pictures [B, 3, H, W] in [-1, 1] are typical of the family."""
    latents = torch.cat([family.vae.encode(picture[None]).mode() for picture in pictures])
    latents *= family.config["scaling_factor"]
    colours = F.interpolate(pictures, latents.shape[-2:], mode="area")
    x = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).double()
    y = colours.permute(0, 2, 3, 1).reshape(-1, 3).double()
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], dim=1), y).solution
    rows = [[round(value, 4) for value in row] for row in solution.tolist()]
    return rows[:-1], rows[-1]


def weights_sha256(models: Path) -> str:
    """Identity of the networks that make a family's pictures: SHA-256 over name, a zero byte and content of each ONNX
    file under `models` and of the weights that lie beside it, in order of names.

    The safety checker is left out: it changes no pixel, so pictures repeat with another one or with none.
    """
    digest = hashlib.sha256()
    for graph in sorted(models.glob("*/1/model.onnx")):
        if graph.parents[1].name == SAFETY_CHECKER:
            continue
        for path in (graph, graph.with_name(graph.name + DATA)):
            if not path.exists():
                continue
            digest.update(path.relative_to(models).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                while chunk := file.read(2**24):
                    digest.update(chunk)
    return digest.hexdigest()
