"""The method in batches, for sample sheets.

The reference pipeline (toolkit.reference) is the readable one and makes one picture at a time;
this one differs only in doing many at once, without parity to the last bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image, ImageDraw
from torch import Tensor

from toolkit.models import Family
from toolkit.reference.fusion import fuse, guide
from toolkit.reference.prompt import encode
from toolkit.train.launch import half_precision
from toolkit.train.pixels import to_image, to_pixel_values


@dataclass(frozen=True)
class Request:
    """prompt with markers, one uint8 [R, R, 3] reference of the image encoder's size a marker, seed."""

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
def generate(
    family: Family, requests: list[Request], method: Method, batch: int = 16, device: torch.device | str = "cpu"
) -> Generated:
    """Pictures of all requests; deterministic in each request's seed."""
    with _gathered(family, torch.device(device)):
        parts = [_generate(family, requests[k : k + batch], method) for k in range(0, len(requests), batch)]
    return Generated(np.concatenate([p.images for p in parts]), np.concatenate([p.sdm_shares for p in parts], axis=1))


@contextmanager
def _gathered(family: Family, device: torch.device) -> Iterator[None]:
    """All networks on one device; in training, those that a stage does not need wait elsewhere."""
    homes = {network: next(network.parameters()).device for network in family.networks().values()}
    for network in homes:
        network.to(device)
    try:
        yield
    finally:
        for network, home in homes.items():
            network.to(home)


def _generate(family: Family, requests: list[Request], method: Method) -> Generated:
    null, text, augmented = _conditions(family, requests)
    size, channels = family.preset.latent_size, family.unet_tdm.config.in_channels
    noise = [torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(r.seed)) for r in requests]
    latents = torch.cat(noise).to(null.device)
    scheduler = DDIMScheduler.from_config(family.scheduler.config)
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
    with half_precision(latents.device):
        images = family.vae.decode(latents / family.config["scaling_factor"])
    return Generated(to_image(images), np.array(shares).reshape(len(shares), len(requests)))


def _predict(unet, latents: Tensor, t: Tensor, base: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
    with half_precision(latents.device):
        rows = unet(latents.repeat(2, 1, 1, 1), t, torch.cat([base, cond])).sample.float()
    return rows.chunk(2)


def _conditions(family: Family, requests: list[Request]) -> tuple[Tensor, Tensor, Tensor]:
    length, slots = family.preset.max_length, family.preset.max_subjects
    device = next(family.text_encoder.parameters()).device
    prompts = [encode(family.tokenizer, r.prompt, length) for r in requests]
    ids = torch.tensor([encode(family.tokenizer, "", length).input_ids] + [p.input_ids for p in prompts])
    states = family.text_encoder(ids.to(device)).last_hidden_state
    null, text = states[:1].expand(len(requests), -1, -1), states[1:]
    embeds = torch.zeros(len(requests), slots, states.shape[-1], device=device)
    positions = torch.full((len(requests), slots), -1, device=device)
    for b, request in enumerate(requests):
        for k, reference in enumerate(request.references):
            pixels = to_pixel_values(reference[None], family).to(device)
            embeds[b, k] = family.image_encoder(pixels).image_embeds[0]
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
