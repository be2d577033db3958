"""8-bit pictures to the networks' ranges and back."""

import numpy as np
import torch
from torch import Tensor

from toolkit.models import Family


def to_pixels(images: np.ndarray | Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to [-1, 1] [B, 3, H, W]."""
    return _channels_first(images) / 127.5 - 1


def to_image(pixels: Tensor) -> np.ndarray:
    """[-1, 1] [B, 3, H, W] to uint8 [B, H, W, 3]."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()


def to_pixel_values(references: np.ndarray | Tensor, family: Family) -> Tensor:
    """uint8 [B, R, R, 3] to the image encoder's normalised [B, 3, R, R]."""
    values = _channels_first(references) / 255
    mean, std = (values.new_tensor(family.config[k]).view(3, 1, 1) for k in ("image_mean", "image_std"))
    return (values - mean) / std


def _channels_first(images: np.ndarray | Tensor) -> Tensor:
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.ascontiguousarray(images))
    return images.permute(0, 3, 1, 2).float()
