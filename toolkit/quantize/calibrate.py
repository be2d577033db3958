"""Records what both UNets are fed while real pictures are drawn: the calibration data of a quantization.

The reference pipeline runs the family's graphs in ONNX Runtime, on a CPU: those of onnxruntime/, from which engines
are built, or where there is no such folder those of models/. A fifth of the prompts is kept apart: their rows go
to check/, on which `quantize` measures what it has done.

  OUT/unet_tdm.npz, unet_sdm.npz          for the quantizer
  OUT/check/unet_tdm.npz, unet_sdm.npz    a quarter as many rows, of other prompts
  OUT/calibration.json                    what they were recorded from; written last
"""

import argparse
import json
from pathlib import Path

import numpy as np

from toolkit.errors import InputError
from toolkit.quantize import UNETS, graphs, prompts, recorder, rows
from toolkit.quantize.rows import Rows
from toolkit.reference.networks import OnnxNetworks
from toolkit.reference.pipeline import Pipeline

# The families that know the drawn people of the validation pairs.
_DRAWN = ("mini", "tiny")
_FEWEST_STEPS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--family", type=Path, required=True, help="folder of the family to be quantized")
    parser.add_argument("--prompts", default=prompts.BUILT_IN, metavar="FILE",
                        help='JSON lines {"prompt": ..., "references": [image files]}, or built-in: the validation '
                        "pairs of the mini family (default)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for the data")
    parser.add_argument("--pictures", type=int, default=40, help="to draw (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=256, help="of each UNet for the quantizer (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="of each picture (default: the family's)")
    parser.add_argument("--seed", type=int, default=0, help="of noise and choice of steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Raises InputError."""
    if args.rows < 8 or args.rows % 8:
        raise InputError(f"--rows {args.rows}: expected a multiple of 8, for a quarter as many are kept for the check")
    if args.pictures < 2:
        raise InputError(f"--pictures {args.pictures}: expected 2 or more, some of them for the check")
    if args.steps is not None and args.steps < _FEWEST_STEPS:
        raise InputError(f"--steps {args.steps}: expected {_FEWEST_STEPS} or more, or a stage would have none")
    pipeline = _pipeline(args.family, args.threads)
    if args.steps:
        pipeline.family["defaults"]["num_inference_steps"] = args.steps
    if args.prompts == prompts.BUILT_IN and (name := pipeline.family["name"]) not in _DRAWN:
        raise InputError(f"the built-in prompts show drawn people, which {name} does not know; give --prompts FILE")
    requests = prompts.load(args.prompts)
    prompts.check(pipeline, requests)
    others, kept = prompts.split(requests)
    checked = max(args.pictures // 5, 1)
    for part, pictures in ((others, args.pictures - checked), (kept, checked)):
        if not any(request.subjects for request, _ in recorder.turns(pipeline.family, part, pictures)):
            raise InputError(f"of {pictures} pictures none has references, which unet_sdm needs; give more of them")
    print(f"{len(others)} prompts for the quantizer, {len(kept)} for the check")
    data = recorder.record(pipeline, others, args.pictures - checked, args.rows, args.seed)
    check = recorder.record(pipeline, kept, checked, args.rows // 4, args.seed + args.pictures)
    _write(args, pipeline.family, data, check)


def _pipeline(folder: Path, threads: int) -> Pipeline:
    try:
        return Pipeline(folder, recorder.Recorder(OnnxNetworks(graphs(folder), threads)))
    except (OSError, KeyError, StopIteration) as error:
        wanted = "pipeline.json, tokenizer/, ONNX files in onnxruntime/ or models/"
        raise InputError(f"--family {folder} is no folder of a family ({wanted}): {error}") from error


def _write(args: argparse.Namespace, family: dict, data: dict[str, Rows], check: dict[str, Rows]) -> None:
    (args.out / "check").mkdir(parents=True, exist_ok=True)
    source = args.prompts if args.prompts == prompts.BUILT_IN else str(Path(args.prompts).resolve())
    about = {"family": family["name"], "weights_sha256": family["weights_sha256"], "prompts": source, "seed": args.seed}
    for name in UNETS:
        inputs = rows.inputs_of(graphs(args.family) / name / "1" / "model.onnx")
        for folder, found in ((args.out, data), (args.out / "check", check)):
            path = folder / f"{name}.npz"
            rows.write(path, {key: found[name][key].astype(dtype) for key, (dtype, _) in inputs.items()})
            steps = np.unique(found[name]["timestep"]).astype(int)
            count = len(found[name]["timestep"])
            about[path.relative_to(args.out).as_posix()] = {"rows": count, "timesteps": steps.tolist()}
            size = path.stat().st_size / 2**20
            print(f"{path}: {count} rows, {len(steps)} timesteps from {steps[0]} to {steps[-1]}, {size:.1f} MiB")
    (args.out / "calibration.json").write_text(json.dumps(about) + "\n", encoding="utf-8")

