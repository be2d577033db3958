"""What linear heads learn to tell, class by class: of a person (stage attributes), of a sentence (stage captions)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Classes = dict[str, tuple[str, ...]]  # kind of label → all its classes

_UNKNOWN = -1


def classes_of(labels: Iterable[dict[str, str | None]]) -> Classes:
    """Every kind of label with all classes that occur."""
    found: dict[str, set[str]] = {}
    for kind, value in (pair for one in labels for pair in one.items()):
        if value is not None:
            found.setdefault(kind, set()).add(value)
    return {kind: tuple(sorted(values)) for kind, values in sorted(found.items())}


def encode_labels(labels: Iterable[dict[str, str | None]], classes: Classes) -> Tensor:
    """[N, kinds]: numbers of the classes. A class that no training picture has cannot be told, as little as one that is
    not known."""
    return torch.tensor([
        [names.index(one[kind]) if one.get(kind) in names else _UNKNOWN for kind, names in classes.items()]
        for one in labels
    ])  # fmt: skip


def label_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Mean over kinds of the cross entropy; what is unknown does not count.

    logits: of each kind [N, classes]; labels: [N, kinds].
    """
    losses = []
    for one, classes in zip(logits, labels.T, strict=True):
        total = F.cross_entropy(one, classes, ignore_index=_UNKNOWN, reduction="sum")
        losses.append(total / (classes != _UNKNOWN).sum().clamp(min=1))
    return sum(losses) / len(losses)


def shares_right(answers: Tensor, labels: Tensor, classes: Classes) -> dict[str, float]:
    """Of each kind that is known of any row; answers and labels [N, kinds]."""
    right, known = answers == labels, labels != _UNKNOWN
    return {
        kind: round(float(right[known[:, k], k].float().mean()), 3)
        for k, kind in enumerate(classes) if known[:, k].any()
    }  # fmt: skip
