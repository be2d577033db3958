"""A folder of real pictures: what FastComposer's data holds (pictures, captions, masks), laid out plainly.

metadata.jsonl            a line a picture: {"file_name": "images/0001.jpg", "caption": "a woman <|image|> ..."}
images/0001.jpg           any size; JPEG or PNG
masks/0001.png            label map of the picture's size: 0 = scene, k = subject of the k-th marker
references/0001-1.png     optional: another picture of subject 1; else it is cut out of its own picture

A line may also have "split": "validation" (of sample sheets, never trained on) and "subjects": for each
marker an object of attribute labels, for the stage `attributes`, and "scene": an object of labels of what the
picture shows, for the stage `captions`.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from toolkit.errors import InputError
from toolkit.models import MARKER, Preset
from toolkit.train.labels import classes_of

_SUFFIXES = (".png", ".jpg", ".jpeg")


class PictureFolder:
    """The pictures of one split as toolkit.train.pictures.Pictures, at the family's sizes.

    Pictures lose what exceeds a square, as far as possible from the subjects, and are resized.
    Raises InputError, with file and line, for data that is incomplete or contradicts itself.
    """

    def __init__(self, folder: Path, split: str, preset: Preset) -> None:
        self.folder = Path(folder)
        self.image_size, self.reference_size = preset.image_size, preset.reference_size
        self._max_subjects = preset.max_subjects
        entries = [entry for entry in self._entries() if entry.get("split", "train") == split]
        self.paths = [self.folder / entry["file_name"] for entry in entries]
        self.captions = [entry["caption"] for entry in entries]
        self.subjects = [entry.get("subjects") or [{}] * entry["caption"].count(MARKER) for entry in entries]
        self.scenes = [entry.get("scene", {}) for entry in entries]
        self._opened: tuple[int, Image.Image, np.ndarray] | None = None

    def _entries(self) -> list[dict]:
        metadata = self.folder / "metadata.jsonl"
        if not metadata.is_file():
            raise InputError(f"{metadata} is missing: a data folder has metadata.jsonl, images/ and masks/")
        entries = []
        for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), 1):
            try:
                entries.append(self._checked(json.loads(line)))
            except (ValueError, KeyError) as error:
                raise InputError(f"{metadata}, line {number}: {error}") from error
        return entries

    def _checked(self, entry: dict) -> dict:
        if not isinstance(entry, dict):
            raise InputError("expected a JSON object")
        missing = [key for key in ("file_name", "caption") if not isinstance(entry.get(key), str)]
        if missing:
            raise InputError(f"{' and '.join(missing)} must be given as text")
        scene = entry.get("scene", {})
        if not isinstance(scene, dict) or not all(isinstance(value, str) for value in scene.values()):
            raise InputError(f"scene must be an object of texts, as {{\"place\": \"park\"}}, not {json.dumps(scene)}")
        path, markers = self.folder / entry["file_name"], entry["caption"].count(MARKER)
        if not path.is_file():
            raise InputError(f"{path} is missing")
        if markers and not self._mask_path(path).is_file():
            raise InputError(f"the caption marks {markers} subjects, but {self._mask_path(path)} is missing")
        if markers > self._max_subjects:
            raise InputError(f"the caption marks {markers} subjects, at most {self._max_subjects} are possible")
        if len(entry.get("subjects") or [{}] * markers) != markers:
            raise InputError(f"{len(entry['subjects'])} subjects are described, but the caption marks {markers}")
        return entry

    def _mask_path(self, path: Path) -> Path:
        return self.folder / "masks" / f"{path.stem}.png"

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> np.ndarray:
        image, labels = self._open(index)
        size = self.image_size
        return np.array(image.resize((size, size), Image.Resampling.BILINEAR, box=_square(labels)))

    def labels(self, index: int) -> np.ndarray:
        _, labels = self._open(index)
        size = self.image_size
        return np.array(Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST, box=_square(labels)))

    def reference(self, index: int, subject: int) -> np.ndarray:
        """From references/, or the subject alone on black, cut out of its picture."""
        stem = f"{self.paths[index].stem}-{subject + 1}"
        for path in (self.folder / "references" / f"{stem}{suffix}" for suffix in _SUFFIXES):
            if path.is_file():
                return self._padded(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        image, labels = self._open(index)
        own = labels == subject + 1
        rows, columns = np.nonzero(own)
        if not rows.size:
            raise InputError(
                f"{self._mask_path(self.paths[index])} has no pixel of value {subject + 1}, the caption's subject "
                f"{subject + 1}: mend the mask or give references/{stem}.png"
            )
        alone = np.where(own[..., None], np.asarray(image), 0).astype(np.uint8)
        return self._padded(Image.fromarray(alone[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]))

    def _padded(self, image: Image.Image) -> np.ndarray:
        """In the middle of a black square, resized to the image encoder's size."""
        side = max(image.size)
        square = Image.new("RGB", (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return np.array(square.resize((self.reference_size, self.reference_size), Image.Resampling.BILINEAR))

    def _open(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Picture and labels in full size. Keeps the last: image, labels and references of one row are
        asked for one after another."""
        if self._opened is None or self._opened[0] != index:
            path = self.paths[index]
            image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
            labels = np.zeros((image.height, image.width), np.uint8)
            if self.captions[index].count(MARKER):
                labels = np.asarray(Image.open(self._mask_path(path)))
                if labels.shape != (image.height, image.width):
                    raise InputError(
                        f"{self._mask_path(path)} must be a label map (one channel) of {image.width} x "
                        f"{image.height} pixels like its picture, not an array of {labels.shape}"
                    )
            self._opened = index, image, labels.astype(np.uint8)
        return self._opened[1:]

    def attribute_classes(self) -> dict[str, tuple[str, ...]]:
        """Every class that a label of this split names."""
        return classes_of(subject for subjects in self.subjects for subject in subjects)

    def scene_classes(self) -> dict[str, tuple[str, ...]]:
        """Every class that a label of this split names."""
        return classes_of(self.scenes)


def _square(labels: np.ndarray) -> tuple[int, int, int, int]:
    """The largest square (left, top, right, bottom) of a picture, as near to its subjects' middle as
    the picture's edges allow; in the picture's middle if it has none."""
    side = min(labels.shape)
    corner = []
    for extent, found in zip(labels.shape, np.nonzero(labels), strict=True):
        middle = (found.min() + found.max() + 1) / 2 if found.size else extent / 2
        corner.append(int(np.clip(round(middle - side / 2), 0, extent - side)))
    top, left = corner
    return left, top, left + side, top + side
