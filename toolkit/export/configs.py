"""Writes what a Stable Diffusion 1.5 family needs beside its weights: Triton's configurations for every back end,
and the shapes that engines are built for.

model_repository/sd15/README.md says which files the weights add.
"""

import argparse
from pathlib import Path

from toolkit.export import triton


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("model_repository/sd15"), help="folder of the family")


def run(args: argparse.Namespace) -> None:
    for path in write(args.out, triton.SD15):
        print(path)


def write(out: Path, sizes: triton.Sizes) -> list[Path]:
    written = []
    for name, text in triton.files(sizes).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
