"""The method in batches, for sample sheets and for choosing stage bounds.

The reference pipeline (toolkit.reference) is the readable one and makes one picture at a time;
this one differs only in doing many at once, without parity to the last bit.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from toolkit.models import Family
from toolkit.models.family import new_scheduler
from toolkit.reference.fusion import fuse, guide
from toolkit.reference.prompt import encode
from toolkit.train.pixels import to_image


@dataclass(frozen=True)
class Request:
    """prompt with markers, one uint8 [64, 64, 3] reference a marker, seed."""

    prompt: str
    references: list[np.ndarray]
    seed: int


@dataclass(frozen=True)
class Method:
    """Inclusive stage bounds; requests without references are scene construction throughout."""

    steps: int = 50
    guidance_scale: float = 5.0
    start_merge_step: int = 15
    final_step: int = 30


@dataclass(frozen=True)
class Generated:
    """images uint8 [B, H, W, 3]; sdm_shares [fusion steps, B]: share of pixels the SDM won."""

    images: np.ndarray
    sdm_shares: np.ndarray


@torch.no_grad()
def generate(family: Family, requests: list[Request], method: Method, batch: int = 16) -> Generated:
    """Pictures of all requests; deterministic in each request's seed."""
    parts = [_generate(family, requests[k : k + batch], method) for k in range(0, len(requests), batch)]
    return Generated(np.concatenate([p.images for p in parts]), np.concatenate([p.sdm_shares for p in parts], axis=1))


def _generate(family: Family, requests: list[Request], method: Method) -> Generated:
    null, text, augmented = _conditions(family, requests)
    size = family.preset.latent_size
    noise = [torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(r.seed)) for r in requests]
    latents = torch.cat(noise)
    scheduler = new_scheduler()
    scheduler.set_timesteps(method.steps)
    subjects = any(r.references for r in requests)
    shares = []
    for i, t in enumerate(scheduler.timesteps):
        scene = not subjects or i <= method.final_step and method.final_step >= 0
        subject = subjects and i > method.start_merge_step
        if subjects and i > method.final_step:
            scene = False
        tdm = _predict(family.unet_tdm, latents, t, null, text) if scene else None
        sdm = _predict(family.unet_sdm, latents, t, text, augmented) if subject else None
        if tdm and sdm:
            fused = [
                fuse((tdm[0][b], tdm[1][b]), (sdm[0][b], sdm[1][b]), method.guidance_scale)
                for b in range(len(requests))
            ]
            predicted = torch.stack([f.noise for f in fused])
            shares.append([float(f.mask.float().mean()) for f in fused])
        else:
            predicted = guide(*(tdm or sdm), method.guidance_scale)
        latents = scheduler.step(predicted, t, latents).prev_sample
    with torch.autocast("cpu", torch.bfloat16):
        images = family.vae.decode(latents / family.config["scaling_factor"])
    return Generated(to_image(images), np.array(shares).reshape(len(shares), len(requests)))


def _predict(unet, latents: Tensor, t: Tensor, base: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        rows = unet(latents.repeat(2, 1, 1, 1), t, torch.cat([base, cond])).sample.float()
    return rows.chunk(2)


def _conditions(family: Family, requests: list[Request]) -> tuple[Tensor, Tensor, Tensor]:
    prompts = [encode(family.tokenizer, r.prompt) for r in requests]
    ids = torch.tensor([encode(family.tokenizer, "").input_ids] + [p.input_ids for p in prompts])
    states = family.text_encoder(ids).last_hidden_state
    null, text = states[:1].expand(len(requests), -1, -1), states[1:]
    slots = family.preset.max_subjects
    embeds = torch.zeros(len(requests), slots, states.shape[-1])
    positions = torch.full((len(requests), slots), -1)
    mean, std = (torch.tensor(family.config[k]).view(3, 1, 1) for k in ("image_mean", "image_std"))
    for b, request in enumerate(requests):
        for k, reference in enumerate(request.references):
            pixels = torch.tensor(reference).permute(2, 0, 1).float() / 255
            embeds[b, k] = family.image_encoder(((pixels - mean) / std)[None]).image_embeds[0]
            positions[b, k] = prompts[b].positions[k]
    return null, text, family.subject_fuser(text, embeds, positions)


def picture_grid(images: list[np.ndarray], captions: list[str], columns: int) -> Image.Image:
    """Pictures in rows; each of the first row's, or each picture's, caption in small print above."""
    height, width = images[0].shape[:2]
    rows = (len(images) + columns - 1) // columns
    margin = 34
    sheet = Image.new("RGB", (columns * width, rows * (height + margin)), "white")
    pen = ImageDraw.Draw(sheet)
    for k, image in enumerate(images):
        x, y = k % columns * width, k // columns * (height + margin)
        sheet.paste(Image.fromarray(image), (x, y + margin))
        if k < len(captions):
            text = captions[k].replace("<|image|>", "*")
            for line in range(3):
                pen.text((x + 2, y + 11 * line), text[line * 21 : line * 21 + 21], fill="black")
    return sheet
