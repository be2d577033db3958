"""The two choices of the loop that other methods make differently, as Face-Diffuser makes them.

toolkit.reference.variants holds those that the paper compares it with.
"""

from dataclasses import dataclass, field

from torch import Tensor

from toolkit.reference.fusion import Fused, fuse

Rows = tuple[Tensor, Tensor]  # (base, cond) predictions of one model, each [4, h, w]


@dataclass(frozen=True)
class Conditioning:
    """c_null, c_text, c_aug [L, D]; c_aug is None without subjects."""

    null: Tensor
    text: Tensor
    augmented: Tensor | None


@dataclass(frozen=True)
class FaceDiffuser:
    """`forced` maps steps to choices of the fusion that replace the saliency's (see fuse)."""

    forced: dict[int, dict[int, int]] = field(default_factory=dict)

    def subject_rows(self, c: Conditioning, i: int, steps: int) -> tuple[Tensor, Tensor | None]:
        """(base, cond) conditionings [L, D] of the subject model's guidance in iteration i of `steps`."""
        return c.text, c.augmented

    def fuse(self, i: int, tdm: Rows, sdm: Rows, guidance_scale: float) -> Fused:
        """One noise of both models' predictions in step i."""
        return fuse(tdm, sdm, guidance_scale, self.forced.get(i))
