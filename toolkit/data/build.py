"""Draws a data set: pictures, label maps, references and captions."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit.data.people import SPLITS
from toolkit.data.samples import RECIPES
from toolkit.data.store import build


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="scenes")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)


def run(args: argparse.Namespace) -> None:
    dataset = build(args.out, args.recipe, args.split, args.count, args.processes)
    rows = [np.concatenate(list(dataset.images[8 * r : 8 * r + 8]), axis=1) for r in range(min(5, len(dataset) // 8))]
    if rows:
        Image.fromarray(np.concatenate(rows)).save(args.out / "preview.png")
