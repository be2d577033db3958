"""Goldens of `fusion/`: SNF of random predictions, and the stages of a plan."""

from pathlib import Path

import torch

from toolkit.reference.fusion import fuse, guide, saliency

CASES = [  # channels, height, width, guidance_scale, seed
    (4, 16, 16, 5.0, 1),
    (4, 16, 16, 1.0, 2),
    (4, 16, 16, 0.0, 3),
    (4, 16, 16, -2.5, 4),
    (4, 64, 64, 5.0, 5),
    (4, 64, 64, 7.5, 6),
    (4, 12, 20, 5.0, 7),
    (4, 9, 5, 3.0, 8),
    (4, 2, 2, 5.0, 9),
    (1, 16, 16, 5.0, 10),
]


def write(folder: Path, write_tensors) -> None:
    for channels, height, width, scale, seed in CASES:
        tensors = case(channels, height, width, scale, seed)
        name = f"snf_{channels}x{height}x{width}_w{scale}.safetensors"
        write_tensors(folder / name, tensors, guidance_scale=scale)
    same = case(4, 16, 16, 5.0, 11, equal=True)
    write_tensors(folder / "snf_equal_models.safetensors", same, guidance_scale=5.0)


def case(channels: int, height: int, width: int, scale: float, seed: int, equal: bool = False) -> dict:
    """Predictions whose conditional rows differ from their base rows most in one place, another
    for each model, as they do in a picture."""
    source = torch.Generator("cpu").manual_seed(seed)
    shape = (channels, height, width)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    rows = []
    for centre in (-0.4, 0.4):
        base = torch.randn(shape, generator=source)
        bump = torch.exp(-4 * ((x - centre) ** 2 + y**2)) + 0.2
        rows.append((base, base + 0.3 * bump * torch.randn(shape, generator=source)))
    tdm, sdm = (rows[0], rows[0]) if equal else rows
    fused = fuse(tdm, sdm, scale)
    return {
        "tdm_base": tdm[0],
        "tdm_cond": tdm[1],
        "sdm_base": sdm[0],
        "sdm_cond": sdm[1],
        "tdm_guided": guide(*tdm, scale),
        "sdm_guided": guide(*sdm, scale),
        "tdm_saliency": saliency(*tdm, scale),
        "sdm_saliency": saliency(*sdm, scale),
        "log_saliency_difference": fused.log_saliency_difference,
        "mask": fused.mask,
        "fused": fused.noise,
    }
