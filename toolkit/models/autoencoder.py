"""Stable Diffusion's autoencoder over folded pixels.

Convolutions at full resolution are what makes AutoencoderKL slow on a CPU. Folding 4x4 pixels
into channels first (space to depth) and unfolding last keeps the real class, its latents
(4 channels, an eighth of the picture's width) and about a third of the time.
"""

from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F


class PatchAutoencoder(nn.Module):
    """AutoencoderKL between a PixelUnshuffle and a PixelShuffle."""

    def __init__(self, autoencoder: AutoencoderKL, patch: int) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.patch = patch

    def encode(self, image: Tensor):
        """Posterior over latents (`.mode()`, `.sample()`, `.kl()`), unscaled.

        `image` [B, 3, H, W] in [-1, 1]; latents [B, 4, H/8, W/8].
        """
        return self.autoencoder.encode(F.pixel_unshuffle(image, self.patch)).latent_dist

    def decode(self, latents: Tensor) -> Tensor:
        """Image [B, 3, 8h, 8w], about [-1, 1] and not clipped, of unscaled latents [B, 4, h, w]."""
        return F.pixel_shuffle(self.autoencoder.decode(latents).sample, self.patch)

    def forward(self, latents: Tensor) -> Tensor:
        return self.decode(latents)
