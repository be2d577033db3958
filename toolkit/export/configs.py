"""Writes what a Stable Diffusion 1.5 family needs beside its weights: Triton's configurations for every back end,
and the shapes that engines are built for.

model_repository/sd15/README.md says which files the weights add.
"""

import argparse
import json
from pathlib import Path

from toolkit.export import triton


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("model_repository/sd15"), help="folder of the family")


def run(args: argparse.Namespace) -> None:
    description = args.out / "pipeline.json"
    family = json.loads(description.read_text(encoding="utf-8")) if description.exists() else None
    for path in write(args.out, triton.SD15, family):
        print(path)


def write(out: Path, sizes: triton.Sizes, family: dict | None = None) -> list[Path]:
    """family: pipeline.json of the models that the configurations are for, if there are any yet."""
    written, family = [], family or {}
    texts = triton.files(sizes, family.get("safety_checker", False), family.get("weights_sha256", ""))
    for name, text in texts.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
