"""Chooses stage bounds and guidance on validation pairs: a table, and the best row.

Runs the method in PyTorch (toolkit.train.preview) on the family in --weights. The score is the
mean accuracy of the judges over the person and the place, halved where one model wins nearly all
pixels in more than half of the fusion steps.
"""

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from toolkit.evaluate.judges import CLASSES, load_judge
from toolkit.evaluate.pairs import validation_pairs
from toolkit.evaluate.scores import both_win, judge_pictures
from toolkit.models import load
from toolkit.train.preview import Method, Request, generate, picture_grid


@dataclass(frozen=True)
class Result:
    start: float
    final: float
    guidance: float
    accuracy: dict[str, float]
    both: float

    @property
    def score(self) -> float:
        person = np.mean([value for key, value in self.accuracy.items() if key != "place"])
        return float((person + self.accuracy["place"]) / 2) * (1.0 if self.both >= 0.5 else 0.5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, required=True, help="folder of a family")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--start", type=float, nargs="+", default=[0.1, 0.2, 0.3], help="fractions of the steps")
    parser.add_argument("--final", type=float, nargs="+", default=[0.3, 0.4, 0.6])
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0, 5.0])
    parser.add_argument("--pictures", type=Path, help="folder for one sheet a setting")
    parser.add_argument("--threads", type=int, default=1)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    family, judge, pairs = load(args.weights), load_judge(), validation_pairs(64)
    requests = [Request(pair.prompt, list(pair.references), pair.seed) for pair in pairs]
    print("| start | final | guidance | " + " | ".join(CLASSES) + " | both win | score |", flush=True)
    print("|--:|--:|--:|" + "--:|" * (len(CLASSES) + 2), flush=True)
    results = []
    for guidance, start, final in itertools.product(args.guidance, args.start, args.final):
        if final < start:
            continue
        method = Method(args.steps, guidance, round(start * args.steps), round(final * args.steps))
        made = generate(family, requests, method)
        accuracy, _ = judge_pictures(judge, pairs, made.images)
        result = Result(start, final, guidance, accuracy, both_win(made.sdm_shares))
        results.append(result)
        cells = " | ".join(f"{accuracy[key]:.2f}" for key in CLASSES)
        print(f"| {start} | {final} | {guidance} | {cells} | {result.both:.2f} | {result.score:.3f} |", flush=True)
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            grid = picture_grid(list(made.images), [pair.prompt for pair in pairs], columns=10)
            grid.save(args.pictures / f"{start}-{final}-{guidance}.png")
    best = max(results, key=lambda r: r.score)
    print(f"best: start {best.start}, final {best.final}, guidance {best.guidance}")
