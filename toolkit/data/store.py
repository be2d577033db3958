"""Samples on disk: one folder a data set, plain NumPy arrays that are memory-mapped.

images.npy      uint8 [N, 128, 128, 3]
labels.npy      uint8 [N, 128, 128]      0 scene, k = subject k
references.npy  uint8 [M, 64, 64, 3]     of all subjects, in order
samples.jsonl   N lines: caption, place, time, ..., subjects (attributes), first_reference
set.json        what was drawn: recipe, split, count, seed, and a digest of what the generator makes of them
preview.png     the first pictures
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from toolkit.data.samples import IMAGE_SIZE, RECIPES, REFERENCE_SIZE, Sample, make_sample, sample_rng, write_script


@dataclass(frozen=True)
class Dataset:
    images: np.ndarray
    labels: np.ndarray
    references: np.ndarray
    samples: list[dict]

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class SetSpec:
    """What a data set is made of; two equal ones give the same bytes."""

    recipe: str
    split: str
    count: int
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.recipe}-{self.split}"


# What the mini family learns from and is measured on while it learns.
SETS = (
    SetSpec("scenes", "train", 20000),
    SetSpec("scenes", "validation", 512),
    SetSpec("subjects", "train", 24000),
    SetSpec("subjects", "validation", 512),
)


def spec_in(folder: Path) -> SetSpec | None:
    """Of the set that lies in a folder, whatever the generator would make of it now."""
    mark = folder / "set.json"
    if not mark.exists():
        return None
    found = json.loads(mark.read_text(encoding="utf-8"))
    return SetSpec(**{name: found[name] for name in ("recipe", "split", "count", "seed")})


def stamp(spec: SetSpec) -> str:
    """Of a set as the generator draws it now: from two hundred scripts and one picture."""
    recipe = RECIPES[spec.recipe]
    digest = hashlib.sha256()
    for index in range(min(spec.count, 200)):
        digest.update(repr(write_script(sample_rng(recipe, spec.split, index, spec.seed), recipe, spec.split)).encode())
    sample = make_sample(recipe, spec.split, 0, spec.seed)
    for pixels in (sample.image, sample.labels, *(subject.reference for subject in sample.subjects)):
        digest.update(pixels.tobytes())
    return json.dumps(asdict(spec) | {"generator": digest.hexdigest()[:16]}) + "\n"


def build(folder: Path, spec: SetSpec, processes: int = 2) -> Dataset:
    """Draws the set into `folder` unless it is there already as it would be drawn now, and opens it."""
    mark, wanted = folder / "set.json", stamp(spec)
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return open_dataset(folder)
    mark.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    count = spec.count
    shape = (count, IMAGE_SIZE, IMAGE_SIZE)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (*shape, 3))
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.uint8, shape)
    references: list[np.ndarray] = []
    lines: list[str] = []
    with get_context("fork").Pool(processes) as pool:
        for index, sample in enumerate(
            tqdm(pool.imap(partial(_make, spec), range(count), chunksize=16), total=count, desc=spec.name, mininterval=5)
        ):
            images[index], labels[index] = sample.image, sample.labels
            lines.append(json.dumps({**sample.describe(), "first_reference": len(references)}))
            references += [subject.reference for subject in sample.subjects]
    images.flush()
    labels.flush()
    packed = np.stack(references) if references else np.zeros((0, REFERENCE_SIZE, REFERENCE_SIZE, 3), np.uint8)
    np.save(folder / "references.npy", packed)
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shown = [np.concatenate(list(images[k : k + 8]), axis=1) for k in range(0, min(count // 8, 5) * 8, 8)]
    if shown:
        Image.fromarray(np.concatenate(shown)).save(folder / "preview.png")
    mark.write_text(wanted, encoding="utf-8")  # last: its presence says that the set is complete
    return open_dataset(folder)


def _make(spec: SetSpec, index: int) -> Sample:
    return make_sample(RECIPES[spec.recipe], spec.split, index, spec.seed)


def open_dataset(folder: Path) -> Dataset:
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "labels", "references")]
    return Dataset(*arrays, [json.loads(line) for line in lines])
