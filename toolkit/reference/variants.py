"""What the paper compares Face-Diffuser with, on the same two models.

Notation as in toolkit.reference.pipeline; N = number of steps, i = 0 ... N - 1.

  Average         eps = (guided eps_T + guided eps_S) / 2
  FixedMask       eps_S in one box a subject, eps_T elsewhere, whatever the models say
  RandomMask      eps_S or eps_T by a fair coin, another one for every pixel and step
  DelayedSubject  eps = eps_S(c_null) + w (eps_S(c) - eps_S(c_null)), c = c_text in the first
                  (1 - alpha) N steps, then c_aug: FastComposer's delayed subject conditioning
                  (Xiao et al., 2023), for plans in which every step is the subject model's

The first three replace SNF in the fusion steps; the stages around it stay.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.reference.fusion import Fused, guide
from toolkit.reference.method import Conditioning, FaceDiffuser, Rows


@dataclass(frozen=True)
class Average(FaceDiffuser):
    def fuse(self, i: int, tdm: Rows, sdm: Rows, guidance_scale: float) -> Fused:
        return Fused((guide(*tdm, guidance_scale) + guide(*sdm, guidance_scale)) / 2)


@dataclass(frozen=True)
class FixedMask(FaceDiffuser):
    """As if it were known where people stand: side by side in the lower three quarters."""

    subjects: int = 1

    def fuse(self, i: int, tdm: Rows, sdm: Rows, guidance_scale: float) -> Fused:
        return select(boxes(self.subjects, *tdm[0].shape[-2:]), tdm, sdm, guidance_scale)


@dataclass(frozen=True)
class RandomMask(FaceDiffuser):
    """The mask depends on the picture's seed and the step alone."""

    seed: int = 0

    def fuse(self, i: int, tdm: Rows, sdm: Rows, guidance_scale: float) -> Fused:
        # A stream of its own: the picture's seed itself would repeat the bits of the initial noise.
        generator = torch.Generator().manual_seed((self.seed << 16) + i + 1)
        mask = torch.randint(2, tdm[0].shape[-2:], generator=generator, dtype=torch.uint8)
        return select(mask, tdm, sdm, guidance_scale)


@dataclass(frozen=True)
class DelayedSubject(FaceDiffuser):
    """alpha in [0, 1]: the share of steps, the last ones, that see the subjects."""

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a share of the steps, 0 to 1, not {self.alpha}")

    def subject_rows(self, c: Conditioning, i: int, steps: int) -> tuple[Tensor, Tensor | None]:
        return c.null, c.text if i < round((1 - self.alpha) * steps) else c.augmented


def boxes(subjects: int, height: int, width: int) -> Tensor:
    """Mask [height, width] uint8, 1 for the subject model: of `subjects` equal columns, the
    middle three quarters of each, in the lower three quarters of the picture."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    column = width / subjects
    for k in range(subjects):
        mask[round(height / 4) :, round((k + 1 / 8) * column) : round((k + 7 / 8) * column)] = 1
    return mask


def select(mask: Tensor, tdm: Rows, sdm: Rows, guidance_scale: float) -> Fused:
    """The guided noise of the subject model where mask [h, w] is 1, of the scene model elsewhere."""
    return Fused(torch.where(mask.bool(), guide(*sdm, guidance_scale), guide(*tdm, guidance_scale)), mask)
