"""What eight bits cost: errors of the noise along the schedule, and pictures side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tqdm import tqdm

from toolkit.quantize import graphs
from toolkit.quantize.rows import Rows, steps_of
from toolkit.reference.networks import OnnxNetworks
from toolkit.reference.pipeline import Pipeline, Request, Result

BANDS = 5


@dataclass(frozen=True)
class Error:
    """Of the steps with timesteps low to high. noise_pred, guided: root mean square of the difference over that of
    the unquantized graph's output, for the raw rows and for base + w (cond - base); largest: of noise_pred."""

    low: int
    high: int
    steps: int
    noise_pred: float
    largest: float
    guided: float


def errors(
    graph: Path, quantized: Path, data: Rows, guidance_scale: float, train_timesteps: int, threads: int = 2
) -> list[Error]:
    """A line each of BANDS equal parts of the schedule that the data has steps of, the noisiest first."""
    wanted, got = (_outputs(path, data, threads) for path in (graph, quantized))
    timesteps = data["timestep"][::2]
    width = train_timesteps // BANDS
    lines = []
    for low in range(width * (BANDS - 1), -1, -width):
        inside = (timesteps >= low) & (timesteps < low + width)
        if inside.any():
            guided = [_guide(noise[inside], guidance_scale) for noise in (wanted, got)]
            largest = float(np.abs(got[inside] - wanted[inside]).max())
            relative = _relative(wanted[inside], got[inside])
            lines.append(Error(low, low + width - 1, int(inside.sum()), relative, largest, _relative(*guided)))
    return lines


def _outputs(path: Path, data: Rows, threads: int) -> np.ndarray:
    """noise_pred [steps, 2, 4, h, w] in FP32."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, step)[0].astype(np.float32) for step in steps_of(data)])


def _guide(noise: np.ndarray, guidance_scale: float) -> np.ndarray:
    base, cond = noise[:, 0], noise[:, 1]
    return base + guidance_scale * (cond - base)


def _relative(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def table(found: dict[str, list[Error]]) -> str:
    lines = ["| UNet | timesteps | steps | noise_pred | largest | guided noise |", "|---|---|--:|--:|--:|--:|"]
    for name, bands in found.items():
        for e in bands:
            where = f"`{name}` | {e.low} to {e.high} | {e.steps}"
            lines.append(f"| {where} | {e.noise_pred:.2%} | {e.largest:.3f} | {e.guided:.2%} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Compared:
    """difference: mean of |a - b| over pixels and channels, of 255; fusion: share of the pixels, over all steps of
    subject-scene fusion, that went to the same model (NaN where there are none)."""

    path: Path
    difference: float
    fusion: float


def compare(families: tuple[Path, Path], requests: Sequence[Request], out: Path, threads: int = 2) -> list[Compared]:
    """Draws every request with both families, one after the other as both would not fit in memory, and writes
    them side by side."""
    first, second = (_draw(folder, requests, threads) for folder in families)
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for k, (a, b) in enumerate(zip(first, second, strict=True)):
        pixels = [np.asarray(result.picture) for result in (a, b)]
        path = out / f"{k:02d}.png"
        Image.fromarray(np.concatenate(pixels, axis=1)).save(path)
        difference = np.abs(pixels[0].astype(float) - pixels[1]).mean()
        masks = [(s.mask, t.mask) for s, t in zip(a.steps, b.steps, strict=True) if s.mask is not None]
        same = float(np.mean([(s == t).float().mean().item() for s, t in masks])) if masks else float("nan")
        found.append(Compared(path, float(difference), same))
    return found


def _draw(folder: Path, requests: Sequence[Request], threads: int) -> list[Result]:
    pipeline = Pipeline(folder, OnnxNetworks(graphs(folder), threads))
    return [pipeline.generate(replace(r, seed=k)) for k, r in enumerate(tqdm(requests, desc=folder.name))]
