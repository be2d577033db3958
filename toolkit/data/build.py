"""Draws the data sets of the mini family into WORK_DIR/data, where training looks for them.

Four sets: scenes (rich in places, weather, styles and wordings, for the scene model) and subjects (every
sample another identity, poor in scenes, for the subject model), each for training and for validation. Every
byte follows from the seed. Sets that are there already are kept; each has a preview.png.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from toolkit.data.store import SETS, build


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = [spec.name for spec in SETS]
    parser.add_argument("--work-dir", type=Path, required=True, help="outside the checkout; 3 GB for all sets")
    parser.add_argument("--sets", nargs="+", choices=names, default=names, metavar="SET",
                        help=f"of {', '.join(names)} (default: all)")  # fmt: skip
    parser.add_argument("--count", type=int, help="samples of each set instead of its own number")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default 0)")
    parser.add_argument("--processes", type=int, default=2, help="that draw (default 2)")


def run(args: argparse.Namespace) -> None:
    for spec in SETS:
        if spec.name in args.sets:
            spec = replace(spec, count=args.count or spec.count, seed=args.seed)
            folder = args.work_dir / "data" / spec.name
            dataset = build(folder, spec, args.processes)
            print(f"{folder}: {len(dataset)} pictures, {len(dataset.references)} people")
