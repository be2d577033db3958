"""Writes a family's networks as ONNX files with Triton's configurations, tokenizer and pipeline.json,
and in `training/` what training goes on from: the autoencoder's encoder and the log of the stages.

Every file is checked in ONNX Runtime against PyTorch on the same FP16-rounded weights.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import torch
from torch.nn import functional as F
from tqdm import tqdm

from toolkit.card import write_part
from toolkit.data.samples import SCENES, make_sample
from toolkit.export import description, onnx_file, triton
from toolkit.export.networks import Network, networks, round_weights
from toolkit.export.weights import ENCODER, write_vae_encoder
from toolkit.models import Family, Preset, load, write_tokenizer
from toolkit.train import record

MAX_MIB = 64
TOLERANCE = 1e-4
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
PREVIEW_PIXELS = 64 * 16**2  # of latents, for four unknowns a colour
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
        write_description(family, args.out, created, typical_pictures(family.preset))
        return
    budget = export(family, args.out, created, max_mib=MAX_MIB)
    print(budget, record.table(family.config["trained"]), sep="\n\n")
    write_card(args.out / "README.md", family, budget)


def write_card(card: Path, family: Family, budget: str) -> None:
    for name, text in (("budget", budget), ("stages", record.table(family.config["trained"]))):
        write_part(card, name, text)


def export(
    family: Family, out: Path, created: int, pictures: torch.Tensor | None = None, max_mib: float | None = None
) -> str:
    """Writes the folder that gateway and Triton load, pipeline.json last, so that a part of it never looks complete;
    returns the sizes as a Markdown table.

    pictures: to fit previews to, default typical_pictures(). max_mib: a budget of all files. Raises ValueError if a
    network differs from PyTorch or from the contract, or all together are over the budget.
    """
    (out / "pipeline.json").unlink(missing_ok=True)
    code = out / "models" / MODEL_CODE.name
    if not code.exists():
        code.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(MODEL_CODE, code)
    round_weights(family)
    rows, total = [], 0
    described = {model.name: model for model in triton.models(triton.sizes(family.preset))}
    for name, network in tqdm(networks(family).items(), desc=f"writing {out}", delay=1):
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
    if max_mib and total > max_mib * 2**20:
        raise ValueError(f"the weights take {total / 2**20:.1f} MiB, more than {max_mib}")
    _write_tokenizer(out / "tokenizer")
    record.write(out / "training" / record.LOG, family.config["trained"])
    lines = ["| network | parameters (M) | file (MiB) | largest error against PyTorch |", "|---|--:|--:|--:|"]
    lines += [f"| `{name}` | {count:.2f} | {size:.2f} | {error:.1e} |" for name, count, size, error in rows]
    limit = f" (budget {max_mib} MiB)" if max_mib else ""
    lines.append(f"| all{limit} | {sum(r[1] for r in rows):.2f} | {total / 2**20:.2f} | |")
    if not family.config.get("random_encoder"):
        size = write_vae_encoder(family, out).stat().st_size
        lines.append(f"| `{ENCODER}`, for training only: not served | {size / 2e6:.2f} | {size / 2**20:.2f} | |")
    write_description(family, out, created, typical_pictures(family.preset) if pictures is None else pictures)
    return "\n".join(lines)


def size_on_disk(family: Family) -> int:
    """Bytes, about, that export() writes: two for every weight, and the tokenizer."""
    return 2 * sum(p.numel() for network in family.networks().values() for p in network.parameters()) + 2**24


def write_description(family: Family, out: Path, created: int, pictures: torch.Tensor) -> None:
    text = description.describe(family, out / "models", pictures, created)
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


def typical_pictures(preset: Preset) -> torch.Tensor:
    """[B, 3, H, W] in [-1, 1] of the family's size: scenes of the generated world, so many that their latents have
    PREVIEW_PIXELS pixels, but at least 8."""
    count = max(8, PREVIEW_PIXELS // preset.latent_size**2)
    samples = [make_sample(SCENES, "train", index).image for index in range(count)]
    pictures = torch.from_numpy(np.stack(samples)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if pictures.shape[-1] == preset.image_size:
        return pictures
    return F.interpolate(pictures, (preset.image_size,) * 2, mode="bilinear", antialias=True)


def _write_tokenizer(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with TemporaryDirectory() as temporary:
        write_tokenizer(Path(temporary))
        for name in TOKENIZER_FILES:
            shutil.copyfile(Path(temporary) / name, folder / name)


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
