"""Writes a family's networks as ONNX files with Triton's configurations, tokenizer and pipeline.json.

precision
  stored16    models/: weights in FP16, arithmetic in FP32. For small families that are committed; in training/ is what
              training goes on from, the autoencoder's encoder and the log of the stages
  both        models/ in FP32, for CPUs, and onnxruntime/ in FP16, for GPUs, which engines are built from; with the
              configurations of all back ends

Every file is compared in ONNX Runtime with the network in PyTorch, and read back as Triton will serve it. What a
float16 network computes is looked through for values that float16 cannot hold.
"""

import argparse
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from torch.nn import functional as F
from tqdm import tqdm

from toolkit.card import write_part
from toolkit.data.samples import SCENES, make_sample
from toolkit.disk import check_room
from toolkit.errors import InputError
from toolkit.export import configs, description, onnx_file, sums, triton, verify
from toolkit.export.networks import Network, check_range, halve, networks, round_weights
from toolkit.export.weights import ENCODER, write_vae_encoder
from toolkit.models import Family, Preset, load, write_tokenizer
from toolkit.train import record

MAX_MIB = 64
# --precision → back end → what is written for it (onnx_file)
GRAPHS: dict[str, dict[str, onnx_file.Precision]] = {
    "stored16": {"cpu": "stored16"},
    "both": {"cpu": "fp32", "onnxruntime": "fp16"},
}
BYTES = {"stored16": 2, "both": 4 + 2}  # of a weight
SCORE_STEP = 1e-3  # the safety checker rounds its score, and a last bit may fall to the other side
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
PREVIEW_PIXELS = 64 * 16**2  # of latents, for four unknowns a colour
# What runs the ONNX files in Triton; another folder gets a copy.
MODEL_CODE = Path(__file__).parents[2] / "model_repository/mini/models/onnx_model.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, required=True, help="folder of a family, as training writes it")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("model_repository/mini"))
    parser.add_argument("--precision", choices=GRAPHS, default="stored16", help="default: %(default)s")
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
        if args.precision == "stored16":
            round_weights(family.networks())
        preview = description.fit_preview(family, typical_pictures(family.preset))
        models = args.out / "models"
        checker = (models / triton.SAFETY_CHECKER).is_dir()
        write_description(args.out, description.describe(family, models, preview, created, checker))
        return
    check_room(args.out, size_on_disk(family, args.precision))
    max_mib = MAX_MIB if args.precision == "stored16" else None
    budget = export(family, args.out, created, max_mib=max_mib, precision=args.precision)
    print(budget, record.table(family.config["trained"]), sep="\n\n")
    write_card(args.out / "README.md", family, budget)


def write_card(card: Path, family: Family, budget: str) -> None:
    for name, text in (("budget", budget), ("stages", record.table(family.config["trained"]))):
        write_part(card, name, text)


def export(
    family: Family,
    out: Path,
    created: int,
    pictures: torch.Tensor | None = None,
    max_mib: float | None = None,
    precision: str = "stored16",
    checker: Network | None = None,
) -> str:
    """Writes the folder that gateway and Triton load, pipeline.json last, so that a part of it never looks complete;
    returns sizes and errors as a Markdown table.

    pictures: to fit previews to, default typical_pictures(). max_mib: a budget of all files. checker: the safety
    checker, of a family that has one. With "both", networks are let go of as they are written: the family is spent.
    Raises InputError if a network does not fit into float16, differs from PyTorch or from the contract, or all together
    are over the budget.
    """
    (out / "pipeline.json").unlink(missing_ok=True)
    code = out / "models" / MODEL_CODE.name
    if not code.exists():
        code.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(MODEL_CODE, code)
    modules = family.networks() | ({triton.SAFETY_CHECKER: checker.module} if checker else {})
    (round_weights if precision == "stored16" else check_range)(modules)
    preview = description.fit_preview(family, typical_pictures(family.preset) if pictures is None else pictures)
    sizes = triton.sizes(family.preset)
    described = {model.name: model for model in (*triton.models(sizes), triton.safety_checker(sizes))}
    exported = networks(family) | ({triton.SAFETY_CHECKER: checker} if checker else {})
    rows = []
    for name, network in tqdm(exported.items(), desc=f"writing {out}", delay=1):
        rows.append(_write(network, described[name], out, family.preset, precision))
        _link(out / "models" / name / "1" / "model.py", code)
    total = sum(row.bytes for row in rows)
    if max_mib and total > max_mib * 2**20:
        raise InputError(f"the weights take {total / 2**20:.1f} MiB, more than {max_mib}")
    _write_tokenizer(out / "tokenizer")
    table = _table(rows, precision, f" (budget {max_mib} MiB)" if max_mib else "")
    if precision == "stored16":
        record.write(out / "training" / record.LOG, family.config["trained"])
        if not family.config.get("random_encoder"):
            size = write_vae_encoder(family, out).stat().st_size
            table.append(f"| `{ENCODER}`, for training only: not served | {size / 2e6:.2f} | {size / 2**20:.2f} | |")
    text = description.describe(family, out / "models", preview, created, safety_checker=checker is not None)
    if precision == "stored16":
        for row in rows:
            config = triton.config(described[row.name], "cpu")
            (out / "models" / row.name / "config.pbtxt").write_text(config, encoding="utf-8")
    else:
        configs.write(out, sizes, text)
    for back_end in GRAPHS[precision]:
        sums.write(out / triton.FOLDERS[back_end])
    write_description(out, text)
    return "\n".join(table)


@dataclass
class _Row:
    """A network in the table. files: of each precision, bytes and error. largest: activation of a float16 run."""

    name: str
    parameters: int
    files: list[tuple[int, float]]
    largest: verify.Activation | None = None

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.files)


def _write(network: Network, described: triton.Model, out: Path, preset: Preset, precision: str) -> _Row:
    """A network's files, each held against PyTorch and against what the configurations will say."""
    row = _Row(described.name, 0, [])
    wanted = verify.expected(network, verify.ROWS)
    for backend, kind in GRAPHS[precision].items():
        if kind == "fp16":
            network = halve(network)
            row.largest = verify.largest_activation(network.module, verify.rows_of(network, 1))
            if not row.largest.fits:
                raise InputError(
                    f"{row.name}: the layer {row.largest.layer} reaches {row.largest.value:.3g} in float16, which ends "
                    f"at {verify.FLOAT16_MAX:.0f}: GPUs, which compute in FP16, would draw nothing. "
                    "--precision stored16 writes the CPU's folder alone"
                )
        path = out / triton.FOLDERS[backend] / row.name / "1" / "model.onnx"
        onnx_file.write(network, path, preset, kind)
        if kind == "fp16":
            network.module.to("meta")  # without weights: memory is for one network at a time
        error = _hold(network, path, described, backend, wanted)
        limit = verify.TOLERANCE[kind] + SCORE_STEP * described.optional
        if not error <= limit:
            raise InputError(f"{row.name}: {kind} differs from PyTorch in FP32 by {error:.1e}, more than {limit}")
        parts = (path, path.with_name(path.name + onnx_file.DATA))
        row.files.append((sum(part.stat().st_size for part in parts if part.exists()), error))
        row.parameters = row.parameters or _count(path)
    return row


def _hold(network: Network, path: Path, described: triton.Model, backend: str, wanted: list[torch.Tensor]) -> float:
    """The file's error; what it needs in memory goes with the session."""
    session = verify.load(path)
    triton.hold(described, backend, verify.tensors(session))
    return verify.error(session, network, wanted)


def _table(rows: list[_Row], precision: str, limit: str) -> list[str]:
    """Lines of Markdown: a row a network, and their sum."""
    if precision == "stored16":
        heads = ["file (MiB)", "largest error against PyTorch"]
    else:
        heads = ["FP32 (MiB)", "its error", "FP16 (MiB)", "its error", "largest activation in FP16"]
    lines = [f"| network | parameters (M) | {' | '.join(heads)} |", f"|---|--:|{'--:|' * len(heads)}"]
    for row in rows:
        cells = [cell for size, error in row.files for cell in (f"{size / 2**20:.2f}", f"{error:.1e}")]
        if row.largest:
            cells.append(f"{row.largest.value:.4g}, `{row.largest.layer}`")
        lines.append(f"| `{row.name}` | {row.parameters / 1e6:.2f} | {' | '.join(cells)} |")
    sums = [f"{sum(row.files[k][0] for row in rows) / 2**20:.2f} | " for k in range(len(GRAPHS[precision]))]
    parameters = sum(row.parameters for row in rows) / 1e6
    lines.append(f"| all{limit} | {parameters:.2f} | {'| '.join(sums)}|{' |' * (precision == 'both')}")
    return lines


def size_on_disk(family: Family, precision: str, checker: Network | None = None) -> int:
    """Bytes, about, that export() writes: the weights, and the tokenizer."""
    modules = [*family.networks().values(), *([checker.module] if checker else [])]
    return BYTES[precision] * sum(p.numel() for module in modules for p in module.parameters()) + 2**24


def write_description(out: Path, text: dict) -> None:
    (out / "pipeline.json").write_text(_json(text), encoding="utf-8")


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


def _count(path: Path) -> int:
    """Elements of a graph's weights."""
    return sum(math.prod(tensor.dims) for tensor in onnx.load(path, load_external_data=False).graph.initializer)


def _json(value: dict) -> str:
    """Indented, with short lists and objects on one line."""
    lines = [f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
