"""Writes every golden file anew: those of the pipeline need the weights, the others only libraries."""

import argparse
from pathlib import Path

import transformers
from transformers import CLIPTokenizerFast

from toolkit.export.description import weights_sha256
from toolkit.goldens import colour, fusion, picture, pipeline, sampler, tokenizer
from toolkit.goldens.files import write_lines, write_tensors
from toolkit.reference.networks import OnnxNetworks
from toolkit.reference.pipeline import Pipeline

GROUPS = ("sampler", "fusion", "tokenizer", "picture", "colour", "pipeline")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", type=Path, default=Path("model_repository/mini"))
    parser.add_argument("--root", type=Path, default=Path(), help="the repository")
    parser.add_argument("--only", choices=GROUPS, action="append", help="these groups instead of all")


def run(args: argparse.Namespace) -> None:
    transformers.logging.set_verbosity_error()  # strings beyond 77 tokens are meant
    groups = args.only or GROUPS
    internal = args.root / "gateway" / "internal"
    if "sampler" in groups:
        sampler.write(args.root / "sampler" / "testdata", write_tensors)
    if "fusion" in groups:
        fusion.write(args.root / "fusion" / "testdata", write_tensors)
    if "tokenizer" in groups:
        words = CLIPTokenizerFast.from_pretrained(args.family / "tokenizer")
        tokenizer.write(internal, words, write_lines)
    if "picture" in groups:
        picture.write(internal / "picture" / "testdata", write_tensors)
    if "colour" in groups:
        colour.write(internal / "picture" / "testdata" / "colour")
    if "pipeline" in groups:
        reference = Pipeline(args.family, OnnxNetworks(args.family / "models", threads=1))
        if reference.family["weights_sha256"] != weights_sha256(args.family / "models"):
            raise SystemExit(f"{args.family}/pipeline.json names other weights than lie in models/: export again")
        pipeline.write(internal / "pipeline" / "testdata", reference, write_tensors)
