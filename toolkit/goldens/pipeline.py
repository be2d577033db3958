"""Goldens of the gateway's pipeline: whole loops, step by step. They depend on the weights."""

import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from toolkit.data.samples import SUBJECTS, make_sample
from toolkit.reference.pipeline import Pipeline, Request, Result
from toolkit.reference.plan import SUBJECT_SCENE_FUSION
from toolkit.reference.prompt import encode

# Every setting is given, so that a family's defaults can change without its weights.
CASES = {
    "no_subject": dict(
        prompt="a woman on the beach at sunset", seed=3407, scheduler="ddim", num_inference_steps=4, guidance_scale=5.0
    ),
    "one_subject": dict(
        prompt="a woman <|image|> reading in the snow at night",
        negative_prompt="a man in a city",
        seed=7,
        scheduler="ddim",
        num_inference_steps=10,
        guidance_scale=5.0,
        start_merge_step=2,
        final_step=6,
    ),
    "two_subjects_eta": dict(
        prompt="a man <|image|> and a woman <|image|> in the forest",
        seed=2**32 - 1,
        scheduler="ddim",
        num_inference_steps=6,
        guidance_scale=3.0,
        start_merge_step=-1,
        final_step=2,
        eta=0.5,
    ),
    "three_subjects": dict(
        prompt="a girl <|image|>, a boy <|image|> and a woman <|image|> in a room",
        seed=42,
        scheduler="ddim",
        num_inference_steps=5,
        guidance_scale=7.5,
        start_merge_step=1,
        final_step=3,
    ),
    # Multistep schedulers go through all stages, so that what they remember crosses from one to the next.
    "one_subject_pndm": dict(
        prompt="a boy <|image|> with a balloon in the desert",
        seed=5,
        scheduler="pndm",
        num_inference_steps=5,
        guidance_scale=5.0,
        start_merge_step=1,
        final_step=4,
    ),
    "two_subjects_dpmpp_2m": dict(
        prompt="a man <|image|> and a woman <|image|> on the beach",
        seed=11,
        scheduler="dpmpp_2m",
        num_inference_steps=5,
        guidance_scale=4.0,
        start_merge_step=1,
        final_step=3,
    ),
}


def write(folder: Path, pipeline: Pipeline, write_tensors) -> None:
    """subject{k}.png and {case}.safetensors, each with the request and the weights' SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    subjects = reference_images(3)
    for k, encoded in enumerate(subjects):
        (folder / f"subject{k}.png").write_bytes(encoded)
    for name, settings in CASES.items():
        count = settings["prompt"].count("<|image|>")
        request = Request(subjects=subjects[:count], **settings)
        result = pipeline.generate(request)
        if not any(step.mask is not None for step in result.steps) and count:
            raise ValueError(f"{name} has no fusion step")
        described = {k: v for k, v in asdict(request).items() if k != "subjects"}
        write_tensors(
            folder / f"{name}.safetensors",
            {**tokens(pipeline, request), **tensors(result)},
            weights_sha256=pipeline.family["weights_sha256"],
            request=described,
            subjects=[f"subject{k}.png" for k in range(count)],
            stages=[step.stage for step in result.steps],
        )


def reference_images(count: int) -> list[bytes]:
    """PNG files of people that no training saw."""
    files = []
    for index in range(count):
        out = io.BytesIO()
        Image.fromarray(make_sample(SUBJECTS, "held_out", index).subjects[0].reference).save(out, "PNG", optimize=True)
        files.append(out.getvalue())
    return files


def tokens(pipeline: Pipeline, request: Request) -> dict[str, torch.Tensor]:
    prompt, negative = (encode(pipeline.tokenizer, text) for text in (request.prompt, request.negative_prompt))
    return {
        "input_ids": torch.tensor(prompt.input_ids),
        "negative_input_ids": torch.tensor(negative.input_ids),
        "positions": torch.tensor(prompt.positions, dtype=torch.int64),
    }


def tensors(result: Result) -> dict:
    """latents [N+1, 4, h, w], row i the input of step i; tdm_base, tdm_cond, sdm_base, sdm_cond,
    noise_pred (what the scheduler was given) [N, 4, h, w]; mask and log_saliency_difference [N, h, w].
    N is the number of the loop's iterations; rows that a step's stage does not have are zeros."""
    steps = result.steps
    none = torch.zeros_like(result.latents)
    flat = none[0]
    out = {
        "timesteps": torch.tensor([step.timestep for step in steps]),
        "latents": torch.stack([step.latents for step in steps] + [result.latents]),
        "noise_pred": torch.stack([step.noise for step in steps]),
        "mask": torch.stack([flat.to(torch.uint8) if step.mask is None else step.mask for step in steps]),
        "log_saliency_difference": torch.stack(
            [flat if step.log_saliency_difference is None else step.log_saliency_difference for step in steps]
        ),
        "fusion_steps": torch.tensor([i for i, s in enumerate(steps) if s.stage == SUBJECT_SCENE_FUSION]).long(),
        "c_null": result.conditioning.null,
        "c_text": result.conditioning.text,
        "image": result.image,
        "pixels": np.array(result.picture),
    }
    for name in ("tdm_base", "tdm_cond", "sdm_base", "sdm_cond"):
        out[name] = torch.stack([step.predictions.get(name, none) for step in steps])
    if result.conditioning.augmented is not None:
        out["c_aug"] = result.conditioning.augmented
    return out
