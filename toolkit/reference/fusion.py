"""Saliency-adaptive Noise Fusion (SNF), as the paper writes it and in its released code's ops.

Notation: w = guidance_scale; base, cond = noise predictions of one model's two rows;
R_k = saliency source of model k (TDM, SDM); Omega_k = its softmax over all pixels.

  1. R_k     = | w (cond_k - base_k) |
  2. R_k     = resize(avg_pool(R_k, 4x4)), mean over channels
  3. Omega_k = softmax(R_k over h*w pixels)
  4. mask    = argmax(Omega_TDM, Omega_SDM), ties to the TDM
  5. noise   = guided noise of the pixel's model, all channels
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def guide(base: Tensor, cond: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance: base + w (cond - base)."""
    return base + guidance_scale * (cond - base)


def saliency(base: Tensor, cond: Tensor, guidance_scale: float) -> Tensor:
    """Saliency before the softmax, [h, w], of predictions [4, h, w] (steps 1 and 2)."""
    response = (guidance_scale * (cond - base)).abs()[None]
    # 4x4, stride 1, one pixel of zeros around that counts in the average: h -> h - 1
    smooth = F.avg_pool2d(response, 4, stride=1, padding=1, count_include_pad=True)
    resized = F.interpolate(smooth, size=response.shape[-2:], mode="bilinear", align_corners=False)
    return resized.mean(dim=1)[0]


@dataclass(frozen=True)
class Fused:
    """noise [4, h, w]; mask [h, w] uint8, 1 where the SDM won;
    log_saliency_difference [h, w] = log Omega_SDM - log Omega_TDM, whose sign decides: pixels
    where it is nearly 0 may fall either way in another float arithmetic. Fusions without a mask
    or a saliency (toolkit.reference.variants) leave them out."""

    noise: Tensor
    mask: Tensor | None = None
    log_saliency_difference: Tensor | None = None


def fuse(
    tdm: tuple[Tensor, Tensor],
    sdm: tuple[Tensor, Tensor],
    guidance_scale: float,
    forced: dict[int, int] | None = None,
) -> Fused:
    """SNF of each model's (base, cond) predictions [4, h, w].

    `forced` maps flat pixel indices to a choice (1 = SDM) that replaces the argmax's, to follow
    another implementation through a near-tie.
    """
    maps = torch.stack([saliency(*tdm, guidance_scale), saliency(*sdm, guidance_scale)]).flatten(1)
    omega_tdm, omega_sdm = torch.softmax(maps, dim=1)
    # a comparison instead of torch.argmax, which promises no order among equal values
    mask = (omega_sdm > omega_tdm).to(torch.uint8)
    for pixel, choice in (forced or {}).items():
        mask[pixel] = choice
    mask = mask.reshape(tdm[0].shape[-2:])
    log_tdm, log_sdm = torch.log_softmax(maps.double(), dim=1)
    noise = torch.where(mask.bool(), guide(*sdm, guidance_scale), guide(*tdm, guidance_scale))
    return Fused(noise, mask, (log_sdm - log_tdm).float().reshape(mask.shape))
