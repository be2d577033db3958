"""Writing golden files so that the same inputs give the same bytes."""

import gzip
import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

COMMAND = "python -m toolkit goldens"
LIBRARIES = ("torch", "numpy", "diffusers", "transformers", "tokenizers", "pillow", "onnxruntime")


def header(**extra) -> dict:
    """What made the file: command, Python and library versions; `extra` describes the case."""
    versions = {name: metadata.version(name) for name in LIBRARIES}
    versions["python"] = ".".join(map(str, sys.version_info[:2]))
    return {"command": COMMAND, "versions": versions, **extra}


def write_tensors(path: Path, tensors: dict, **extra) -> None:
    """One safetensors file. Its metadata has the single key `golden`: with several, their order
    would differ from run to run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(_array(value)) for name, value in tensors.items()}
    path.write_bytes(save(arrays, metadata={"golden": json.dumps(header(**extra), sort_keys=True)}))


def write_lines(path: Path, lines: list[dict], **extra) -> None:
    """Gzipped JSON lines; the first line is the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in [header(**extra), *lines])
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def _array(value) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
