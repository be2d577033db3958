"""Trains the classifiers that judge pictures: hair colour, skin tone, glasses, headwear and place.

One small convolutional network on ground-truth pictures of the split "metric"; it shares neither
weights nor features nor people with the models under test. Pictures are blurred and shifted at random in
training, so that a judge reads what is shown and not how sharp it is. Prints the accuracy on
pictures of held-out people and writes `judges.safetensors` beside this file.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from toolkit.data import people, scenes
from toolkit.data.store import Dataset, SetSpec, build
from toolkit.train.pixels import to_pixels

CLASSES = {
    "hair_colour": tuple(people.HAIR_COLOURS),
    "skin": tuple(people.SKIN_TONES),
    "glasses": tuple(people.GLASSES),
    "headwear": tuple(people.HEADWEAR),
    "place": (*scenes.PLACES, "studio"),
}
_UNKNOWN = -100  # what cross_entropy ignores
WEIGHTS = Path(__file__).with_name("judges.safetensors")


class Judge(nn.Module):
    """[B, 3, 128, 128] in [-1, 1] to one row of logits an attribute."""

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
            )

        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 8, 4, 2),
            nn.ReLU(),
            block(32, 48, 1),
            block(48, 64, 2),
            block(64, 64, 1),
            block(64, 96, 2),
            block(96, 96, 1),
            nn.AdaptiveAvgPool2d(4),  # keeps roughly where things are
            nn.Flatten(),
            nn.Dropout(0.2),
        )
        self.heads = nn.ModuleDict({key: nn.Linear(96 * 16, len(names)) for key, names in CLASSES.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(images)
        return {key: head(features) for key, head in self.heads.items()}


def load_judge(path: Path = WEIGHTS) -> Judge:
    judge = Judge()
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return judge.eval()


@torch.no_grad()
def read(judge: Judge, images: np.ndarray) -> list[dict[str, str]]:
    """What the judge sees on each uint8 [B, 128, 128, 3]."""
    logits = judge(to_pixels(images))
    return [{key: CLASSES[key][int(part[b].argmax())] for key, part in logits.items()} for b in range(len(images))]


def _usable(dataset: Dataset) -> tuple[np.ndarray, dict[str, Tensor]]:
    """Pictures of one person, and the class of each attribute; _UNKNOWN where the picture does not
    show it (hair under headwear, colours in a picture with a style)."""
    index = [k for k, s in enumerate(dataset.samples) if len(s["subjects"]) == 1]

    def known(sample: dict) -> dict:
        looks = {} if sample["style"] else sample["subjects"][0]
        return {**looks, "place": sample["place"]}

    shown = [known(dataset.samples[k]) for k in index]
    classes = {
        key: torch.tensor([names.index(s[key]) if s.get(key) else _UNKNOWN for s in shown])
        for key, names in CLASSES.items()
    }
    return np.array(index), classes


def _disturb(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    if rng.random() < 0.5:
        pixels = pixels.flip(3)
    if rng.random() < 0.6:
        small = int(rng.integers(44, 110))
        pixels = F.interpolate(pixels, size=small, mode="bilinear", antialias=True)
        pixels = F.interpolate(pixels, size=128, mode="bilinear")
    shift = tuple(int(v) for v in rng.integers(-6, 7, 2))
    pixels = torch.roll(pixels, shift, dims=(2, 3))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    return pixels + 0.08 * float(rng.random()) * torch.randn(pixels.shape, generator=generator)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work-dir", type=Path, required=True, help="where data sets lie or are drawn")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--train", type=int, default=12000, help="training samples")
    parser.add_argument("--held-out", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    train = build(args.work_dir / "data" / "scenes-metric", SetSpec("scenes", "metric", args.train))
    unseen = build(args.work_dir / "data" / "subjects-held_out", SetSpec("subjects", "held_out", args.held_out))
    judge = train_judge(train, args.steps, args.batch)
    index, classes = _usable(unseen)
    with torch.no_grad():
        parts = [judge(to_pixels(unseen.images[part])) for part in np.array_split(index, max(1, len(index) // 64))]
    for key, truth in classes.items():
        shown = truth != _UNKNOWN
        right = (torch.cat([part[key].argmax(dim=1) for part in parts]) == truth)[shown]
        print(f"{key}: {float(right.float().mean()):.3f} of {len(right)} pictures of held-out people")
    state = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file(state, args.out)


def train_judge(dataset: Dataset, steps: int, batch: int, seed: int = 0) -> Judge:
    torch.manual_seed(seed)
    judge = Judge().train()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    index, classes = _usable(dataset)
    for step in (bar := trange(steps, desc="judge", mininterval=10)):
        rng = np.random.default_rng([seed, step])
        chosen = rng.integers(len(index), size=batch)
        pixels = _disturb(to_pixels(dataset.images[np.sort(index[chosen])]), rng)
        order = np.argsort(index[chosen], kind="stable")
        logits = judge(pixels)
        loss = sum(F.cross_entropy(part, classes[key][chosen[order]]) for key, part in logits.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix_str(f"loss {float(loss.detach()):.3f}", refresh=False)
    return judge.eval()
