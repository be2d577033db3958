"""8-bit pictures to the autoencoder's range and back."""

import numpy as np
import torch
from torch import Tensor


def to_pixels(images: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] to [-1, 1] [B, 3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_image(pixels: Tensor) -> np.ndarray:
    """[-1, 1] [B, 3, H, W] to uint8 [B, H, W, 3]."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().permute(0, 2, 3, 1).to(torch.uint8).numpy()
