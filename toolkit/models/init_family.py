"""Writes random networks of the mini family (or the tiny one of the tests) to a folder."""

import argparse
from pathlib import Path

from toolkit.models import MINI, TINY, new_family, save


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=["mini", "tiny"], default="mini")


def run(args: argparse.Namespace) -> None:
    save(new_family(args.seed, MINI if args.preset == "mini" else TINY), args.out)
