"""Two scores of a picture: does it show the people of the references, and does it show the prompt?

`mini` measures the generated world with small networks of its own, `field` measures photographs
with the networks that papers of this field use (MTCNN and FaceNet, CLIP ViT-L/14). Both follow
FastComposer's rules (Xiao et al., section 5.1): faces are found in the picture and in every
reference, matched to the references by the cosine of their embeddings, best match first, and a
picture of several people counts as its worst one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from toolkit.models.tokenizer import MARKER

METRICS = ("mini", "field")
_MARKER = re.compile(r"\s*" + re.escape(MARKER))


@dataclass(frozen=True)
class IdentityScore:
    """How well each reference is met, in the order of the references.

    own: cosine of each reference with the face matched to it (0.0 when no face is left for it).
    swapped: two subjects: cosine of each reference with the face matched to the other (0.0 when
    there is none); () for any other number. faces: faces found.
    """

    own: tuple[float, ...]
    swapped: tuple[float, ...]
    faces: int

    @property
    def preservation(self) -> float:
        """One number a picture: the worst subject's cosine, at least 0 (FastComposer's rule)."""
        return max(0.0, min(self.own))

    @property
    def kept_apart(self) -> bool:
        """Whether two faces were found and each is nearer to its own reference than to the other."""
        return self.faces >= 2 and all(own > other for own, other in zip(self.own, self.swapped, strict=True))


class Metrics(Protocol):
    """Pictures and references are uint8 [height, width, 3]; markers in prompts do not count."""

    def identity(self, image: np.ndarray, references: Sequence[np.ndarray]) -> IdentityScore:
        """Matches the faces of one picture to its references; ValueError for a reference without a face."""
        ...

    def prompt(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """Cosine of each picture with its own prompt: float [len(images)]."""
        ...


def without_markers(prompt: str) -> str:
    """The sentence that image-text networks read: 'a woman <|image|> at home' to 'a woman at home'."""
    return _MARKER.sub("", prompt).strip()


def load_metrics(name: str = "mini", weights: Path | None = None) -> Metrics:
    """The metric networks, ready to score.

    name: 'mini' or 'field'. weights: of mini, a file written by `python -m toolkit metrics` (None:
    the committed one); of field, the folder that toolkit.evaluate.metrics.field describes.
    Raises FileNotFoundError that says which file is missing, ValueError for another name.
    """
    # Imported here: the field's networks take seconds to import, the mini ones need none of them.
    if name == "mini":
        from toolkit.evaluate.metrics.mini import MiniMetrics

        return MiniMetrics.load(weights)
    if name == "field":
        from toolkit.evaluate.metrics.field import FieldMetrics

        if weights is None:
            raise ValueError("the field's networks need --weights, the folder that holds them")
        return FieldMetrics.load(weights)
    raise ValueError(f"unknown metrics {name!r}; there are {', '.join(METRICS)}")
