"""Draws one picture with the reference, in ONNX Runtime or in PyTorch."""

import argparse
from pathlib import Path

from toolkit.export.weights import read_family
from toolkit.models import load
from toolkit.reference.networks import OnnxNetworks, TorchNetworks
from toolkit.reference.pipeline import Pipeline, Request
from toolkit.reference.scheduler import SCHEDULERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="a sentence; <|image|> after the noun of each subject")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--subject", type=Path, action="append", default=[], help="reference image, in prompt order")
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument("--seed", type=int, default=3407)
    parser.add_argument("--scheduler", choices=SCHEDULERS)
    parser.add_argument("--steps", type=int, dest="num_inference_steps")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--start-merge-step", type=int)
    parser.add_argument("--final-step", type=int)
    parser.add_argument("--eta", type=float)
    parser.add_argument("--count", type=int, default=1, help="pictures, with seeds from --seed on")
    parser.add_argument("--family", type=Path, default=Path("model_repository/mini"))
    parser.add_argument("--torch", action="store_true", help="run the exported weights in PyTorch")
    parser.add_argument("--weights", type=Path, help="run this folder of training's weights in PyTorch")


def run(args: argparse.Namespace) -> None:
    if args.weights:
        networks = TorchNetworks(load(args.weights))
    elif args.torch:
        networks = TorchNetworks(read_family(args.family))
    else:
        networks = OnnxNetworks(args.family / "models")
    names = ["prompt", "negative_prompt", "seed", "scheduler", "num_inference_steps", "guidance_scale"]
    names += ["start_merge_step", "final_step", "eta"]
    subjects = [path.read_bytes() for path in args.subject]
    request = Request(subjects=subjects, **{name: getattr(args, name) for name in names})
    pipeline = Pipeline(args.family, networks)
    for k in range(args.count):
        out = args.out if args.count == 1 else args.out.with_stem(f"{args.out.stem}-{k}")
        pipeline.generate(request, k).picture.save(out)
        print(out)
