"""Writes a family's networks as ONNX files with Triton's configurations, tokenizer and pipeline.json,
and in `training/` what training goes on from: the autoencoder's encoder and the log of the stages.

Every file is checked in ONNX Runtime against PyTorch on the same FP16-rounded weights.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from toolkit.card import write_part
from toolkit.data.samples import SCENES, make_sample
from toolkit.export import description, onnx_file, triton
from toolkit.export.networks import Network, networks, round_weights
from toolkit.export.weights import ENCODER, write_vae_encoder
from toolkit.models import Family, load
from toolkit.train import record

MAX_MIB = 64
TOLERANCE = 1e-4
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
PREVIEW_PICTURES = 64
_DATATYPES = {torch.float32: "FP32", torch.float16: "FP16", torch.int64: "INT64"}
# What runs the ONNX files in Triton; another folder gets a copy.
MODEL_CODE = Path(__file__).parents[2] / "model_repository/mini/models/onnx_model.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, required=True, help="folder of a family, as training writes it")
    parser.add_argument("--out", type=Path, default=Path("model_repository/mini"))
    parser.add_argument("--description-only", action="store_true", help="write pipeline.json alone")
    for name in ("guidance-scale", "start-merge-fraction", "final-fraction"):
        parser.add_argument(f"--{name}", type=float, help="default of pipeline.json instead of the weights folder's")


def run(args: argparse.Namespace) -> None:
    family = load(args.weights)
    chosen = {name: getattr(args, name) for name in ("guidance_scale", "start_merge_fraction", "final_fraction")}
    given = {name: value for name, value in chosen.items() if value is not None}
    family.config["defaults"] = {**family.config.get("defaults", {}), **given}
    created = int((args.weights / "family.json").stat().st_mtime)
    if args.description_only:
        round_weights(family)
        write_description(family, args.weights, args.out, created)
        return
    budget, stages = export(family, args.weights, args.out, created), record.table(family.config["trained"])
    print(budget, stages, sep="\n\n")
    for name, text in (("budget", budget), ("stages", stages)):
        write_part(args.out / "README.md", name, text)


def export(family: Family, weights: Path, out: Path, created: int) -> str:
    """Writes the folder that gateway and Triton load; returns the budget as a Markdown table.

    Raises ValueError if a network differs from PyTorch or from the contract, or all together are over the budget.
    """
    code = out / "models" / MODEL_CODE.name
    if not code.exists():
        code.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(MODEL_CODE, code)
    round_weights(family)
    rows, total = [], 0
    described = {model.name: model for model in triton.models(triton.sizes(family.preset))}
    for name, network in networks(family).items():
        folder = out / "models" / name
        path = folder / "1" / "model.onnx"
        onnx_file.write(network, path, family.preset)
        output, error = check(network, path)
        triton.hold(described[name], "cpu", _tensors(network, output))
        (folder / "config.pbtxt").write_text(triton.config(described[name], "cpu"), encoding="utf-8")
        _link(folder / "1" / "model.py", code)
        parameters = sum(tensor.size for tensor in _weights(path))
        total += path.stat().st_size
        rows.append((name, parameters / 1e6, path.stat().st_size / 2**20, error))
        if error > TOLERANCE:
            raise ValueError(f"{name}: ONNX Runtime differs from PyTorch by {error:.1e}, more than {TOLERANCE}")
    if total > MAX_MIB * 2**20:
        raise ValueError(f"the weights take {total / 2**20:.1f} MiB, more than {MAX_MIB}")
    (out / "tokenizer").mkdir(exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(weights / "tokenizer" / name, out / "tokenizer" / name)
    write_description(family, weights, out, created)
    record.write(out / "training" / record.LOG, family.config["trained"])
    lines = ["| network | parameters (M) | file (MiB) | largest error against PyTorch |", "|---|--:|--:|--:|"]
    lines += [f"| `{name}` | {count:.2f} | {size:.2f} | {error:.1e} |" for name, count, size, error in rows]
    lines.append(f"| all (budget {MAX_MIB} MiB) | {sum(r[1] for r in rows):.2f} | {total / 2**20:.2f} | |")
    if not family.config.get("random_encoder"):
        size = write_vae_encoder(family, out).stat().st_size
        lines.append(f"| `{ENCODER}`, for training only: not served | {size / 2e6:.2f} | {size / 2**20:.2f} | |")
    return "\n".join(lines)


def write_description(family: Family, weights: Path, out: Path, created: int) -> None:
    schedule = json.loads((weights / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    text = description.describe(family, schedule, out / "models", typical_pictures(), created)
    (out / "pipeline.json").write_text(_json(text), encoding="utf-8")


def check(network: Network, path: Path) -> tuple[torch.Tensor, float]:
    """(output of the example batch in PyTorch, largest difference of ONNX Runtime from it for
    batches of one, two and five rows)."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    error = 0.0
    for rows in (5, 1, 2):
        batch = {k: v.repeat(3, *[1] * (v.dim() - 1))[:rows] for k, v in network.inputs.items()}
        with torch.no_grad():
            expected = network.module(**batch)
        (got,) = session.run([network.output], {k: v.numpy() for k, v in batch.items()})
        error = max(error, float(np.abs(got - expected.numpy()).max()))
    return expected, error


def _tensors(network: Network, output: torch.Tensor) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a network takes and gives, as triton.tensors writes it."""
    batches = {**network.inputs, network.output: output}
    return {name: (_DATATYPES[batch.dtype], tuple(batch.shape[1:])) for name, batch in batches.items()}


def typical_pictures() -> torch.Tensor:
    samples = [make_sample(SCENES, "train", index).image for index in range(PREVIEW_PICTURES)]
    return torch.from_numpy(np.stack(samples)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _link(link: Path, target: Path) -> None:
    """One implementation for all models, where Triton's Python backend looks for it."""
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(target, link.parent))


def _weights(path: Path) -> list[np.ndarray]:
    return [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]


def _json(value: dict) -> str:
    """Indented, with short lists and objects on one line."""
    lines = [f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
