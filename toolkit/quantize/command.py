"""Writes a family whose two UNets compute in eight bits, and says what that costs.

INT8 is ONNX Runtime's static quantization; FP8 is NVIDIA's ModelOpt, which --modelopt finds. Both leave the same
layers in the graph's precision (toolkit/quantize/graph.py says which and why), and both are measured alike, on
steps that calibration has not seen: the error of noise_pred and of the guided noise along the schedule, whether
TensorRT's parser has all that the graphs hold, and with --pictures what it does to pictures.

The rest of the family is copied. docs/quantization.md leads from here to a serving engine.
"""

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx

from toolkit.errors import InputError
from toolkit.export import sums, tensorrt
from toolkit.export.description import weights_sha256
from toolkit.export.onnx_file import DATA
from toolkit.export.weights import PRESET
from toolkit.quantize import UNETS, graph, graphs, int8, judge, modelopt, prompts, rows

COMPARISON = "comparison"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--family", type=Path, required=True, help="folder of the family")
    parser.add_argument("--calibration", type=Path, required=True, help="what `calibrate` recorded of it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the family in eight bits")
    parser.add_argument("--mode", choices=["int8", "fp8"], default="int8", help="default: %(default)s")
    parser.add_argument("--modelopt", metavar="PYTHON",
                        help="python of an environment with ModelOpt, which then quantizes; fp8 needs it")  # fmt: skip
    parser.add_argument("--keep", metavar="REGEX", help="nodes, by name or their weights', that stay as they are too")
    parser.add_argument("--check", action="store_true", help="measure what lies in --out, quantize nothing")
    parser.add_argument("--pictures", type=int, default=0, help="of the prompts kept for the check, to draw with both "
                        "families, side by side in OUT/comparison (default: none)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Raises InputError."""
    if not args.check:
        quantize(args)
    return check(args)


def quantize(args: argparse.Namespace) -> None:
    """Writes the folder, whole or not at all. Raises InputError."""
    if args.out.exists():
        raise InputError(f"{args.out} exists; remove it, give another --out, or measure it with --check")
    if args.mode == "fp8" and not args.modelopt:
        raise InputError("ONNX Runtime makes no FP8 that TensorRT reads; give --modelopt PYTHON (docs/quantization.md)")
    for name in UNETS:  # before anything long
        rows.read(args.calibration / f"{name}.npz", _existing(args.family, name))
    part = args.out.with_name(args.out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(args.family, part, symlinks=True, ignore=_left_out(args.family))
    for name in UNETS:
        _quantize(args, name, part)
    _describe(args, part)
    part.rename(args.out)


def _left_out(family: Path) -> Callable[[str, list[str]], set[str]]:
    """For copytree: the UNets, which are written anew, other graphs of the family, and what was made of them."""
    kept = graphs(family)
    others = {"models", "onnxruntime", "engines", COMPARISON} - {kept.name}

    def left_out(folder: str, names: list[str]) -> set[str]:
        path = Path(folder)
        found = {name for name in names if name.endswith(".plan")}
        if path == family:
            found |= others.intersection(names)
        if path.parent.parent == kept and path.parent.name in UNETS:
            found |= {"model.onnx", "model.onnx" + DATA}.intersection(names)
        return found

    return left_out


def _describe(args: argparse.Namespace, part: Path) -> None:
    description, profiles = part / "pipeline.json", part / "profiles.json"
    before = json.loads(description.read_text(encoding="utf-8"))["weights_sha256"]
    after = weights_sha256(graphs(part))
    sums.write(graphs(part))
    for path in (description, *part.glob("*/*/config.pbtxt")):  # all that say whose weights they are of
        path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    if profiles.exists():  # so that engines are named for what they are
        text = profiles.read_text(encoding="utf-8").replace('"precision": "fp16"', f'"precision": "{args.mode}"')
        profiles.write_text(text, encoding="utf-8")


def _quantize(args: argparse.Namespace, name: str, part: Path) -> None:
    source, data = _existing(args.family, name), args.calibration / f"{name}.npz"
    target = part / source.relative_to(args.family)
    model = graph.load(source)
    layers = graph.layers(model, args.keep)
    names = [layer for layer, why in layers.items() if not why]
    if not names:
        raise InputError(f"--keep {args.keep} leaves nothing of {name} to quantize")
    stay = ", ".join(f"{count} {why}" for why, count in Counter(layers.values()).items() if why)
    print(f"{name}: {len(names)} of {len(layers)} convolutions and products to {args.mode}; what stays: {stay}")
    if args.modelopt:
        modelopt.quantize(args.modelopt, args.mode, model, names, data, target)
    else:
        int8.quantize(model, names, rows.read(data, source), target)
    _finish(target, names, {entry.key: entry.value for entry in model.metadata_props if entry.key == PRESET})


def _finish(path: Path, names: list[str], metadata: dict[str, str]) -> None:
    """metadata: the rest, where parameters of training lie, is true no more."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        node.name = node.name.removesuffix(modelopt.SUFFIX)
    graph.spare(model, names)
    read = {tensor for node in model.graph.node for tensor in node.input}
    for k in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[k].name not in read:  # ModelOpt leaves some, and ONNX Runtime complains of each
            del model.graph.initializer[k]
    onnx.helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString(deterministic=True))


def check(args: argparse.Namespace) -> int:
    """Prints what was written and its errors; 1 if TensorRT would refuse it. Raises InputError."""
    family = json.loads((args.family / "pipeline.json").read_text(encoding="utf-8"))
    found, refused = {}, 0
    for name in UNETS:
        source, target = _existing(args.family, name), _existing(args.out, name)
        model = onnx.shape_inference.infer_shapes(onnx.load(target, load_external_data=False))
        kinds = graph.quantized_types(model)
        if not kinds:
            raise InputError(f"{target} holds no QuantizeLinear: it is not quantized")
        sizes = [_size(path) / 2**20 for path in (source, target)]
        pairs = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        print(f"{name}: {sizes[0]:.1f} → {sizes[1]:.1f} MiB; {graph.quantized_layers(model)} layers by {pairs}")
        for fault in tensorrt.faults(model):
            refused += 1
            print(f"{name}: TensorRT refuses {fault}")
        data = rows.read(args.calibration / "check" / f"{name}.npz", source)
        scale, timesteps = family["defaults"]["guidance_scale"], family["schedule"]["num_train_timesteps"]
        found[name] = judge.errors(source, target, data, scale, timesteps, args.threads)
    print(f"\n{judge.table(found)}\n")
    if args.pictures:
        _compare(args)
    return 1 if refused else 0


def _compare(args: argparse.Namespace) -> None:
    recorded = json.loads((args.calibration / "calibration.json").read_text(encoding="utf-8"))
    _, kept = prompts.split(prompts.load(recorded["prompts"]))
    compared = judge.compare((args.family, args.out), kept[: args.pictures], args.out / COMPARISON, args.threads)
    for pair in compared:
        print(f"{pair.path}: {pair.difference:.2f} of 255 apart, fusion agrees in {pair.fusion:.1%} of the pixels")


def _existing(family: Path, name: str) -> Path:
    if not (path := graphs(family) / name / "1" / "model.onnx").exists():
        raise InputError(f"{path} does not exist; expected the folder of a family with ONNX files")
    return path


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.parent.glob("model.onnx*"))
