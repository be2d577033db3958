"""How the mini metrics' networks learn: one loss a network, one loop for all.

Step n draws everything random from (seed, network, n), so a training that was cut and resumed
reaches the same weights as one that was not.
"""

import math
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from toolkit.data.store import Dataset
from toolkit.evaluate.metrics.captions import reword
from toolkit.evaluate.metrics.faces import FaceSet
from toolkit.evaluate.metrics.mini import Words
from toolkit.evaluate.metrics.networks import (
    EMBEDDING,
    IMAGE_SIZE,
    STRIDE,
    Detector,
    Embedder,
    ImageTower,
    TextTower,
    crop_faces,
)
from toolkit.train.pixels import to_pixels

_WARMUP = 50
_CHECKPOINT_SECONDS = 60.0


def train(
    name: str,
    networks: nn.Module,
    loss: Callable[[np.random.Generator], Tensor],
    steps: int,
    learning_rate: float,
    work_dir: Path,
    seed: int = 0,
    data: str = "",
) -> float:
    """Trains in place, from the last checkpoint of `name` in `work_dir` on; returns minutes spent.

    data: names what the loss learns from. Raises ValueError for a checkpoint of other data, numbers or networks.
    loss is called with the step's generator; torch's own is seeded too.
    """
    networks.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=learning_rate, weight_decay=0.02, fused=True)
    path = work_dir / "checkpoints" / f"metrics-{name}.pt"
    first, spent = 0, 0.0
    setup = {"steps": steps, "learning_rate": learning_rate, "seed": seed, "data": data}
    if path.exists():
        saved = torch.load(path, weights_only=True)
        first, spent = saved["step"], saved["seconds"]
        if saved["setup"] != setup:
            raise ValueError(f"{path} belongs to other data or numbers ({saved['setup']}, not {setup}); delete it to train anew")
        try:
            networks.load_state_dict(saved["networks"])
        except RuntimeError as error:
            raise ValueError(f"{path} belongs to other networks; delete it to train anew") from error
        optimizer.load_state_dict(saved["optimizer"])
    started = time.monotonic() - spent

    def checkpoint(step: int) -> None:
        state = {"setup": setup, "step": step, "seconds": time.monotonic() - started}
        state |= {"networks": networks.state_dict(), "optimizer": optimizer.state_dict()}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    saved_at = time.monotonic()
    recent = math.nan
    bar = tqdm(range(first, steps), desc=name, initial=first, total=steps, mininterval=5)
    for step in bar:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), step])
        torch.manual_seed(int(rng.integers(2**62)))
        optimizer.param_groups[0]["lr"] = learning_rate * _rate(step, steps)
        value = loss(rng)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 5.0)
        optimizer.step()
        recent = float(value.detach()) if math.isnan(recent) else 0.98 * recent + 0.02 * float(value.detach())
        bar.set_postfix_str(f"loss {recent:.4f}", refresh=False)
        if time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
            checkpoint(step + 1)
            saved_at = time.monotonic()
    if first < steps:
        checkpoint(steps)
    networks.eval()
    return (time.monotonic() - started) / 60 if first < steps else spent / 60


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine to 0."""
    return min(1.0, (step + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def disturb(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Blurs, tints and roughens, so that a network reads what is shown and not how well it is drawn.

    Pictures of a model are soft and noisy where the generator's are sharp; without this a metric
    would reward sharpness.
    """
    parts = []
    for part in pixels.chunk(4):
        size = part.shape[-1]
        if rng.random() < 0.6:
            small = int(size * rng.uniform(0.3, 0.9))
            part = F.interpolate(part, size=(small, small), mode="bilinear", antialias=True)
            part = F.interpolate(part, size=(size, size), mode="bilinear")
        count = len(part)
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, (count, 1, 1, 1)) * rng.uniform(0.95, 1.05, (count, 3, 1, 1)))
        shift = torch.from_numpy(rng.uniform(-0.1, 0.1, (count, 1, 1, 1)))
        noise = 0.12 * float(rng.random() ** 2) * torch.randn(part.shape)
        parts.append(part * gain.float() + shift.float() + noise)
    return torch.cat(parts)


# -- face detector ----------------------------------------------------------------------------------


def detector_loss(detector: Detector, faces: FaceSet, batch: int, rng: np.random.Generator) -> Tensor:
    """Focal loss of the heat map and L1 of the boxes (Objects as Points, formulas 1 to 3)."""
    index = np.sort(rng.choice(len(faces.images), size=batch, replace=False))
    pixels, boxes = to_pixels(faces.images[index]), torch.from_numpy(faces.boxes[index])
    if rng.random() < 0.5:
        pixels, boxes = pixels.flip(3), boxes * boxes.new_tensor([-1, 1, 1]) + boxes.new_tensor([IMAGE_SIZE, 0, 0])
    heat, targets, near = detector_targets(boxes, torch.from_numpy(faces.identities[index] >= 0))
    logits, offsets = detector(disturb(pixels, rng))
    probability = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    hit = (heat == 1).float()
    focal = hit * (1 - probability) ** 2 * probability.log()
    focal = focal + (1 - hit) * (1 - heat) ** 4 * probability**2 * (1 - probability).log()
    distance = (offsets - targets).abs().sum(dim=1) * near
    return -focal.sum() / hit.sum().clamp(min=1) + distance.sum() / near.sum().clamp(min=1)


def detector_targets(boxes: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For boxes [B, 3, 3] of which `real` [B, 3] exist: the heat map [B, h, w] (1 at the cell of a
    head's centre, falling off with a tenth of its side), what each cell shall say [B, 3, h, w], and
    which cells must say it [B, h, w]."""
    cells = IMAGE_SIZE // STRIDE
    middle = torch.arange(cells) + 0.5
    dx = boxes[..., 0, None, None] / STRIDE - middle  # [B, 3, 1, w]
    dy = boxes[..., 1, None, None] / STRIDE - middle[:, None]  # [B, 3, h, 1]
    sigma = boxes[..., 2, None, None].clamp(min=1) / STRIDE / 10
    heat = torch.exp(-(dx**2 + dy**2) / (2 * sigma**2))
    heat = torch.where((dx.abs() <= 0.5) & (dy.abs() <= 0.5), 1.0, heat) * real[..., None, None]
    heat, whose = heat.max(dim=1)
    log_side = (boxes[..., 2, None, None].clamp(min=1) / 64).log()
    every = torch.stack(torch.broadcast_tensors(dx, dy, log_side), dim=2)  # [B, 3 heads, 3, h, w]
    targets = every.gather(1, whose[:, None, None].expand(-1, 1, 3, -1, -1))[:, 0]
    return heat, targets, (heat > 0.5).float()


# -- face embedder ----------------------------------------------------------------------------------


class MarginClasses(nn.Module):
    """The identities of the training set as directions, with ArcFace's additive angular margin
    (Deng et al. 2019): a face must be nearer to its own by `margin` radians. Thrown away afterwards."""

    def __init__(self, identities: int, margin: float = 0.25, scale: float = 24.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.05 * torch.randn(identities, EMBEDDING))
        self.margin, self.scale = margin, scale

    def forward(self, embeddings: Tensor, identities: Tensor) -> Tensor:
        """Cross entropy of unit embeddings [B, D] with their identities [B]."""
        cosines = F.linear(embeddings, F.normalize(self.weight, dim=-1)).clamp(-1 + 1e-5, 1 - 1e-5)
        own = F.one_hot(identities, cosines.shape[1]).bool()
        return F.cross_entropy(self.scale * torch.where(own, (cosines.acos() + self.margin).cos(), cosines), identities)


def embedder_loss(
    embedder: Embedder, classes: MarginClasses, faces: FaceSet, batch: int, rng: np.random.Generator
) -> Tensor:
    """One crop a face, a little beside its box as a detector's boxes are."""
    pictures, slots = np.nonzero(np.asarray(faces.identities) >= 0)
    chosen = np.sort(rng.choice(len(pictures), size=min(batch, len(pictures)), replace=False))
    pictures, slots = pictures[chosen], slots[chosen]
    boxes = faces.boxes[pictures, slots].copy()
    boxes[:, :2] += boxes[:, 2:] * rng.uniform(-0.06, 0.06, (len(boxes), 2))
    boxes[:, 2] *= rng.uniform(0.9, 1.1, len(boxes))
    crops = crop_faces(to_pixels(faces.images[pictures]), torch.from_numpy(boxes))
    if rng.random() < 0.5:
        crops = crops.flip(3)
    return classes(embedder(disturb(crops, rng)), torch.from_numpy(faces.identities[pictures, slots]))


# -- image and text tower ---------------------------------------------------------------------------


class Towers(nn.Module):
    """Both towers and the learned temperature of the contrast (Radford et al. 2021)."""

    def __init__(self, image: ImageTower, text: TextTower) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def towers_loss(towers: Towers, words: Words, dataset: Dataset, batch: int, rng: np.random.Generator) -> Tensor:
    """CLIP's symmetric contrast, with one false caption a picture among the sentences.

    True and false caption are worded anew every time and differ in one thing only (toolkit.evaluate.
    metrics.captions), so a picture must be told from its near relatives and not just from others.
    """
    index = np.sort(rng.choice(len(dataset), size=min(batch, len(dataset)), replace=False))
    captions = [reword(rng, dataset.samples[k]) for k in index]
    pixels = to_pixels(dataset.images[index])
    if rng.random() < 0.5:
        pixels = pixels.flip(3)
    pictures = towers.image(disturb(pixels, rng))
    sentences = towers.text(words.rows([true for true, _ in captions] + [false for _, false in captions]))
    logits = towers.logit_scale.exp().clamp(max=50.0) * pictures @ sentences.T
    own = torch.arange(len(index))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits[:, : len(index)].T, own)) / 2
