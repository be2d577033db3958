"""Latents of a whole data set, encoded once and kept beside the checkpoints."""

import json
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from toolkit.data.store import Dataset
from toolkit.models import Family
from toolkit.train.pixels import to_pixels

_CHUNK = 32


def encode_dataset(family: Family, dataset: Dataset, path: Path, processes: int = 2) -> np.ndarray:
    """Scaled posterior means [N, 4, h, w] float16, from `path` if the same autoencoder made them."""
    stamp = {"count": len(dataset), "scaling_factor": family.config["scaling_factor"]}
    mark = path.with_suffix(".json")
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == stamp:
        return np.load(path, mmap_mode="r")
    path.parent.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    parts = []
    jobs = range(0, len(dataset), _CHUNK)
    with get_context("fork").Pool(processes, _start, (family, dataset)) as pool:
        for part in tqdm(pool.imap(_encode, jobs), total=len(jobs), desc=f"latents {path.stem}", mininterval=10):
            parts.append(part)
    latents = np.concatenate(parts)
    np.save(path, latents)
    mark.write_text(json.dumps(stamp), encoding="utf-8")
    return latents


def _start(family: Family, dataset: Dataset) -> None:
    torch.set_num_threads(1)
    global _family, _dataset  # of a pool's process
    _family, _dataset = family, dataset


@torch.no_grad()
def _encode(start: int) -> np.ndarray:
    pixels = to_pixels(_dataset.images[start : start + _CHUNK])
    with torch.autocast("cpu", torch.bfloat16):
        mean = _family.vae.encode(pixels).mode()
    return (mean.float() * _family.config["scaling_factor"]).half().numpy()
