"""What the stages learn from: pictures with captions, subject masks and reference images.

Two sources behind one interface: the generated world (toolkit.data.store) and a folder of real
pictures (toolkit.train.folder).
"""

import hashlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from toolkit.data import people, samples, store
from toolkit.errors import InputError
from toolkit.models import Preset
from toolkit.train.labels import classes_of


class Pictures(Protocol):
    """N pictures of H x H pixels, the size of the family's pictures.

    captions: N sentences, `<|image|>` behind the noun of every subject.
    subjects: for each picture the attributes of its subjects (name -> class, or None where it
    cannot be seen), in the order of the markers; empty dicts where nothing is known.
    scenes: for each picture what it shows as a whole (kind of label -> class), as place or style; empty
    dicts where nothing is known.
    """

    captions: list[str]
    subjects: list[list[dict[str, str | None]]]
    scenes: list[dict[str, str]]

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, H, 3]."""

    def labels(self, index: int) -> np.ndarray:
        """uint8 [H, H]: 0 = scene, k = subject k, from 1."""

    def reference(self, index: int, subject: int) -> np.ndarray:
        """uint8 [R, R, 3], R the image encoder's size: what shows the subject (from 0) to the model."""

    def attribute_classes(self) -> dict[str, tuple[str, ...]]:
        """Every attribute with all its classes; empty if the pictures have no such labels."""

    def scene_classes(self) -> dict[str, tuple[str, ...]]:
        """Every kind of label in `scenes` with all its classes."""


def digest_of(pictures: Pictures) -> str:
    """Of all captions and of eight pictures, which tells one data set from another."""
    count = len(pictures.captions)
    digest = hashlib.sha256("\n".join(pictures.captions).encode())
    for index in range(0, count, max(1, count // 8)):
        digest.update(pictures.image(index).tobytes())
    return digest.hexdigest()


class GeneratedPictures:
    """A data set of the generated world.

    Raises InputError if it is drawn at another size than the family's.
    """

    def __init__(self, dataset: store.Dataset, preset: Preset) -> None:
        sizes = dataset.images.shape[1], dataset.references.shape[1]
        if sizes != (preset.image_size, preset.reference_size):
            raise InputError(
                f"the generated world is drawn at {sizes[0]} pixels with references of {sizes[1]}, the family has "
                f"{preset.image_size} and {preset.reference_size}: train it on pictures of its size (--data-dir)"
            )
        self._dataset = dataset
        self.captions = [sample["caption"] for sample in dataset.samples]
        self.subjects = [sample["subjects"] for sample in dataset.samples]
        self.scenes = [samples.scene_labels(sample) for sample in dataset.samples]
        self._first = [sample["first_reference"] for sample in dataset.samples]

    def image(self, index: int) -> np.ndarray:
        return np.array(self._dataset.images[index])

    def labels(self, index: int) -> np.ndarray:
        return np.array(self._dataset.labels[index])

    def reference(self, index: int, subject: int) -> np.ndarray:
        return np.array(self._dataset.references[self._first[index] + subject])

    def attribute_classes(self) -> dict[str, tuple[str, ...]]:
        return people.attribute_classes()

    def scene_classes(self) -> dict[str, tuple[str, ...]]:
        return classes_of(self.scenes)


class Examples(Dataset):
    """Rows for a stage's DataLoader: only what the stage names is read.

    columns: name -> function of the row number that gives an array or tensor of fixed shape.
    """

    def __init__(self, rows: int, **columns: Callable[[int], np.ndarray | Tensor]) -> None:
        self.rows, self.columns = rows, columns

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: torch.as_tensor(column(index)) for name, column in self.columns.items()}
