"""Writes what a Stable Diffusion 1.5 family needs beside its weights: Triton's configurations for every back end,
and the shapes that engines are built for.

model_repository/sd15/README.md says which files the weights add.
"""

import argparse
from pathlib import Path

from toolkit.export import triton


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("model_repository/sd15"), help="folder of the family")
    parser.add_argument("--no-safety-checker", action="store_true", help="for a family without that model")


def run(args: argparse.Namespace) -> None:
    for path in write(args.out, safety_checker=not args.no_safety_checker):
        print(path)


def write(out: Path, safety_checker: bool) -> list[Path]:
    """Triton loads every folder that has a configuration, so a family without the safety checker must not
    have one for it."""
    family = triton.models(triton.SD15)
    if safety_checker:
        family = (*family, triton.safety_checker(triton.SD15))
    written = []
    for name, text in triton.files(family).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
