"""Pictures with exact head boxes, to train the face detector and the face embedder on.

People of the split "metric" (no model under test trains on them, none is evaluated on them) in
pictures with everything that the generator draws: places, weather, held things, scarves, styles.
Unlike the data sets of toolkit.data, every identity comes in several pictures, heads vary more in
size and place, and where each head lies is known. A picture depends on (split, index) alone.
"""

import hashlib
import json
import math
import zlib
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from toolkit.data import people, props, scenes, styles
from toolkit.data.people import Identity, draw_identity
from toolkit.data.samples import IMAGE_SIZE, SCENES, draw_content, draw_looks_for

MOST = 3  # people in a picture
_COUNTS = (0.06, 0.42, 0.32, 0.20)  # probability of 0, 1, 2, 3 people
_WIDTHS = {1: (92, 150), 2: (72, 104), 3: (54, 80)}  # of the bust in pixels: wider than the generator's
# Of the pictures of one person so many are like references: nearer, and nothing held or worn.
_REFERENCES, _REFERENCE_WIDTHS = 0.35, (118, 170)
# A head with its hair in an avatar 264 units wide and 280 high: middle and side of a square.
_AVATAR, _HEAD, _SIDE = (264, 280), (132, 98), 164


@dataclass(frozen=True)
class FaceSet:
    """images uint8 [N, 128, 128, 3]; boxes float32 [N, 3, 3]: centre x, y and side of each head in
    pixels; identities int [N, 3]: whose head it is, -1 where a picture has fewer than three."""

    images: np.ndarray
    boxes: np.ndarray
    identities: np.ndarray
    stamp: str  # what was drawn, and a digest of what the generator made of it


@dataclass(frozen=True)
class FaceSpec:
    """What a set is made of; two equal ones give the same bytes."""

    split: str = "metric"
    identities: int = 1600
    pictures: int = 8000


def build_faces(folder: Path, spec: FaceSpec, processes: int = 1) -> FaceSet:
    """Draws the set into `folder` unless it is there already as it would be drawn now, and opens it."""
    mark = folder / "spec.json"
    first = hashlib.sha256(b"".join(part.tobytes() for index in range(4) for part in draw_picture(spec, index)))
    wanted = json.dumps(asdict(spec) | {"generator": first.hexdigest()[:16]})
    if not (mark.exists() and mark.read_text(encoding="utf-8") == wanted):
        mark.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        shape = (spec.pictures, IMAGE_SIZE, IMAGE_SIZE, 3)
        images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
        boxes = np.zeros((spec.pictures, MOST, 3), np.float32)
        identities = np.full((spec.pictures, MOST), -1)
        with get_context("fork").Pool(processes) as pool:
            drawn = pool.imap(partial(draw_picture, spec), range(spec.pictures), chunksize=16)
            bar = tqdm(drawn, total=spec.pictures, desc=f"faces/{spec.split}", mininterval=5)
            for index, (images[index], boxes[index], identities[index]) in enumerate(bar):
                pass
        images.flush()
        np.save(folder / "boxes.npy", boxes)
        np.save(folder / "identities.npy", identities)
        mark.write_text(wanted, encoding="utf-8")  # last: its presence says that the set is complete
    images = np.load(folder / "images.npy", mmap_mode="r")
    return FaceSet(images, np.load(folder / "boxes.npy"), np.load(folder / "identities.npy"), wanted)


@lru_cache(maxsize=4096)
def identity_of(split: str, number: int) -> Identity:
    return draw_identity(np.random.default_rng([_seed(split), 0, number]), split)


def draw_picture(spec: FaceSpec, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, boxes and identities of one picture, as in FaceSet."""
    rng = np.random.default_rng([_seed(spec.split), 1, index])
    count = int(rng.choice(len(_COUNTS), p=_COUNTS))
    numbers = rng.choice(spec.identities, size=count, replace=False)
    boxes, identities = np.zeros((MOST, 3), np.float32), np.full(MOST, -1)
    identities[:count] = numbers
    shown = [identity_of(spec.split, int(number)) for number in numbers]
    content, widths = draw_content(rng, SCENES, count), _WIDTHS.get(count)
    if count == 1 and rng.random() < _REFERENCES:
        content, widths = replace(content, action=None, accessory=None, style=None), _REFERENCE_WIDTHS
    canvas = scenes.draw_scene(rng, content.scene, IMAGE_SIZE)
    for k, identity in enumerate(shown):
        look = draw_looks_for(rng, content, as_named=False)
        width, tilt = int(rng.integers(*widths)), float(rng.uniform(-7, 7))
        bust = people.render(identity, look, width).rotate(tilt, Image.Resampling.BICUBIC)
        middle = IMAGE_SIZE * (2 * k + 1) / (2 * count) + rng.uniform(-1, 1) * (14, 6, 3)[count - 1]
        x = round(middle - width / 2)
        y = max(round(IMAGE_SIZE - bust.height + width * rng.uniform(0.0, 0.16)), -round(0.04 * width))
        body = props.Body(x, y, width, people.SKIN_TONES[identity.skin])
        _paste(canvas, props.draw_behind(rng, content.action, IMAGE_SIZE, body))
        _paste(canvas, bust, (x, y))
        _paste(canvas, props.draw_worn(content.accessory, content.accessory_colour, IMAGE_SIZE, body))
        _paste(canvas, props.draw_before(rng, content.action, IMAGE_SIZE, body))
        boxes[k] = head_box(x, y, width, tilt)
    return styles.apply_style(np.asarray(canvas), content.style), boxes, identities


def _paste(canvas: Image.Image, layer: Image.Image | None, place: tuple[int, int] = (0, 0)) -> None:
    if layer:
        canvas.paste(layer, place, layer)


def head_box(x: float, y: float, width: float, tilt: float) -> tuple[float, float, float]:
    """Centre x, y and side in pixels of the head of a bust whose left top corner lies at (x, y),
    turned by `tilt` degrees (counter-clockwise) about its middle."""
    unit = width / _AVATAR[0]
    up, turn = (_AVATAR[1] / 2 - _HEAD[1]) * unit, math.radians(tilt)
    return x + width / 2 - up * math.sin(turn), y + _AVATAR[1] / 2 * unit - up * math.cos(turn), _SIDE * unit


def _seed(split: str) -> int:
    return zlib.crc32(f"faces/{split}".encode())
