"""Samples on disk: one folder a data set, plain NumPy arrays that are memory-mapped.

images.npy      uint8 [N, 128, 128, 3]
labels.npy      uint8 [N, 128, 128]      0 scene, k = subject k
references.npy  uint8 [M, 64, 64, 3]     of all subjects, in order
samples.jsonl   N lines: caption, place, time, ..., subjects (attributes), first_reference
"""

import json
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from toolkit.data.samples import IMAGE_SIZE, RECIPES, REFERENCE_SIZE, make_sample


@dataclass(frozen=True)
class Dataset:
    images: np.ndarray
    labels: np.ndarray
    references: np.ndarray
    samples: list[dict]

    def __len__(self) -> int:
        return len(self.samples)


def build(folder: Path, recipe: str, split: str, count: int, processes: int = 2) -> Dataset:
    """Draws `count` samples into `folder` unless they are there already, and opens them."""
    if (folder / "samples.jsonl").exists():
        dataset = open_dataset(folder)
        if len(dataset) >= count:
            return dataset
    folder.mkdir(parents=True, exist_ok=True)
    shape = (count, IMAGE_SIZE, IMAGE_SIZE)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (*shape, 3))
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.uint8, shape)
    references: list[np.ndarray] = []
    lines: list[str] = []
    jobs = ((recipe, split, index) for index in range(count))
    with get_context("fork").Pool(processes) as pool:
        for index, sample in enumerate(
            tqdm(pool.imap(_make, jobs, chunksize=16), total=count, desc=f"{recipe}/{split}", mininterval=5)
        ):
            images[index], labels[index] = sample.image, sample.labels
            lines.append(json.dumps({**sample.describe(), "first_reference": len(references)}))
            references += [subject.reference for subject in sample.subjects]
    images.flush()
    labels.flush()
    packed = np.stack(references) if references else np.zeros((0, REFERENCE_SIZE, REFERENCE_SIZE, 3), np.uint8)
    np.save(folder / "references.npy", packed)
    # last: its presence says that the set is complete
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return open_dataset(folder)


def _make(job: tuple[str, str, int]):
    recipe, split, index = job
    return make_sample(RECIPES[recipe], split, index)


def open_dataset(folder: Path) -> Dataset:
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "labels", "references")]
    return Dataset(*arrays, [json.loads(line) for line in lines])
