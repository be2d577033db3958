"""The metrics of the generated world: small networks trained by `python -m toolkit metrics`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizerFast

from toolkit.evaluate.metrics import IdentityScore, without_markers
from toolkit.evaluate.metrics.matching import score_faces
from toolkit.evaluate.metrics.networks import (
    IMAGE_SIZE,
    MAX_TOKENS,
    STRIDE,
    Detector,
    Embedder,
    ImageTower,
    TextTower,
    crop_faces,
)
from toolkit.models.tokenizer import write_tokenizer
from toolkit.train.pixels import to_pixels

WEIGHTS = Path(__file__).with_name("mini.safetensors")
THRESHOLD = 0.4  # heat from which a cell is a head
_TWICE = 0.4  # of the larger side: nearer centres are one head found twice
_BATCH = 64
_PADDING, _UNKNOWN = 0, 1


class Words:
    """CLIP's tokens as rows of a small table: the tokens that captions have, in ascending order."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = [int(i) for i in ids]
        self._rows = {token: row for row, token in enumerate(self.ids, start=_UNKNOWN + 1)}

    @staticmethod
    def of(sentences: Sequence[str]) -> "Words":
        """The table of all tokens of some sentences."""
        return Words(sorted({token for ids in _token_ids(sentences) for token in ids}))

    def rows(self, sentences: Sequence[str]) -> Tensor:
        """[B, length of the longest, at most 40], padded. Markers do not count."""
        ids = [found[:MAX_TOKENS] for found in _token_ids(sentences)]
        rows = torch.full((len(ids), max(1, *map(len, ids))), _PADDING)
        for k, found in enumerate(ids):
            rows[k, : len(found)] = torch.tensor([self._rows.get(token, _UNKNOWN) for token in found], dtype=torch.long)
        return rows


def _token_ids(sentences: Sequence[str]) -> list[list[int]]:
    return _tokenizer()([without_markers(s) for s in sentences], add_special_tokens=False)["input_ids"]


@cache
def _tokenizer() -> CLIPTokenizerFast:
    with TemporaryDirectory() as folder:
        return write_tokenizer(Path(folder))


@dataclass
class MiniMetrics:
    """Implements toolkit.evaluate.metrics.Metrics for square pictures."""

    detector: Detector
    embedder: Embedder
    image_tower: ImageTower
    text_tower: TextTower
    words: Words

    def networks(self) -> dict[str, nn.Module]:
        names = ("detector", "embedder", "image_tower", "text_tower")
        return {name: getattr(self, name) for name in names}

    def eval(self) -> "MiniMetrics":
        for network in self.networks().values():
            network.eval().requires_grad_(False)
        return self

    @staticmethod
    def new(words: Words) -> "MiniMetrics":
        """Random networks for a table of words."""
        return MiniMetrics(Detector(), Embedder(), ImageTower(), TextTower(len(words.ids)), words)

    @staticmethod
    def load(path: Path | None = None) -> "MiniMetrics":
        """Reads what save() wrote; without a path the committed weights."""
        path = Path(path or WEIGHTS)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; `python -m toolkit metrics --work-dir DIR` trains and writes it")
        state = load_file(path)
        metrics = MiniMetrics.new(Words(state.pop("words").tolist()))
        for name, network in metrics.networks().items():
            own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
            network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in own.items()})
        return metrics.eval()

    def save(self, path: Path) -> None:
        """One safetensors file, FP16."""
        state = {f"{n}.{k}": v for n, network in self.networks().items() for k, v in network.state_dict().items()}
        halves = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
        save_file(halves | {"words": torch.tensor(self.words.ids, dtype=torch.int32)}, path)

    @torch.no_grad()
    def identity(self, image: np.ndarray, references: Sequence[np.ndarray]) -> IdentityScore:
        if not references:
            raise ValueError("identity needs at least one reference")
        pixels = to_network([image, *references])
        shown, *found = self.find_faces(pixels)
        # A reference shows one person, so its strongest box counts however faint.
        portraits = torch.stack([strongest for strongest, _ in found])
        wanted = self.embed(pixels[1:], portraits)
        faces = shown[1]
        seen = self.embed(pixels[:1].expand(len(faces), -1, -1, -1), faces) if len(faces) else np.zeros((0, 1))
        return score_faces(wanted, seen)

    def prompt(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} pictures and {len(prompts)} prompts; there must be one prompt a picture")
        if not prompts:
            return np.zeros(0)
        return (self.embed_pictures(images) * self.embed_sentences(prompts)).sum(axis=1)

    @torch.no_grad()
    def embed_pictures(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors [N, 128] of what pictures show."""
        parts = range(0, len(images), _BATCH)
        return torch.cat([self.image_tower(to_network(images[k : k + _BATCH])) for k in parts]).double().numpy()

    @torch.no_grad()
    def embed_sentences(self, prompts: Sequence[str]) -> np.ndarray:
        """Unit vectors [N, 128] of what sentences say."""
        parts = range(0, len(prompts), _BATCH)
        return torch.cat([self.text_tower(self.words.rows(prompts[k : k + _BATCH])) for k in parts]).double().numpy()

    def find_faces(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each picture of [B, 3, 128, 128]: its strongest box [3] and the boxes of its faces
        [F, 3], largest first (centre x, y and side in pixels)."""
        heat, offsets = self.detector(pixels)
        return [decode(h, o) for h, o in zip(heat.sigmoid(), offsets, strict=True)]

    def embed(self, pixels: Tensor, boxes: Tensor) -> np.ndarray:
        """Unit embeddings [B, 128] of one face a picture."""
        return self.embedder(crop_faces(pixels, boxes)).numpy()


def decode(heat: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Heat [h, w] in [0, 1] and offsets [3, h, w] of one picture to boxes; see find_faces."""
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in heat.shape), indexing="ij")
    x, y = (columns + 0.5 + offsets[0]) * STRIDE, (rows + 0.5 + offsets[1]) * STRIDE
    boxes = torch.stack([x, y, 64 * offsets[2].clamp(-3, 2).exp()], dim=-1).view(-1, 3)
    peak = heat == F.max_pool2d(heat[None], 3, stride=1, padding=1)[0]
    order = (heat * peak).flatten().argsort(descending=True)
    found: list[Tensor] = []
    for cell in order[: int((peak & (heat >= THRESHOLD)).sum())]:
        box = boxes[cell]
        if all(torch.dist(box[:2], other[:2]) > _TWICE * max(box[2], other[2]) for other in found):
            found.append(box)
    found.sort(key=lambda box: -float(box[2]))
    return boxes[order[0]], torch.stack(found) if found else boxes[:0]


def to_network(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 [s, s, 3] of any sizes to [B, 3, 128, 128] in [-1, 1]."""
    resized = []
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1] or image.dtype != np.uint8:
            raise ValueError(f"a picture is {image.dtype} {list(image.shape)}; the mini metrics read uint8 [s, s, 3]")
        if len(image) != IMAGE_SIZE:
            picture = Image.fromarray(image).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
            image = np.asarray(picture)
        resized.append(image)
    return to_pixels(np.stack(resized))
