"""Sizes of a family. Everything else of the architecture is Stable Diffusion 1.5's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Dimensions of all networks of one family.

    The latent is `image_size / (vae_patch * 2 ** (len(vae_channels) - 1))` pixels wide.
    """

    name: str
    width: int = 128  # D: text states, cross attention, image embeddings
    text_layers: int = 3
    text_heads: int = 4
    max_length: int = 77  # L
    max_subjects: int = 4  # S
    image_size: int = 128  # of a generated picture
    reference_size: int = 64  # of a reference image at the image encoder
    vision_width: int = 192
    vision_layers: int = 5
    vision_heads: int = 6
    vision_patch: int = 8
    unet_channels: tuple[int, ...] = (64, 128, 192)
    unet_layers: int = 1
    unet_heads: int = 4
    vae_patch: int = 4  # pixels folded into channels before the autoencoder
    vae_channels: tuple[int, ...] = (96, 128)
    vae_layers: int = 1

    @property
    def latent_size(self) -> int:
        return self.image_size // (self.vae_patch * 2 ** (len(self.vae_channels) - 1))


MINI = Preset(name="mini")

# For tests: real classes, as small as their group norms and attention heads allow.
TINY = Preset(
    name="tiny",
    width=32,
    text_layers=1,
    text_heads=2,
    vision_width=32,
    vision_layers=1,
    vision_heads=2,
    vision_patch=16,
    unet_channels=(32, 64),
    unet_heads=2,
    vae_channels=(32, 32),
    vae_layers=1,
)
