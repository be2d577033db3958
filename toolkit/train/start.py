"""Where a training starts: from the weights in a folder, as one Family with fresh optimisers.

toolkit.convert.sources says which folders. A work directory keeps a copy in `start/`: the folder itself may change (a
new export) or go away, and a resumed training must still begin where it began.
"""

import json
from pathlib import Path

import torch

from toolkit.convert import sources
from toolkit.errors import InputError
from toolkit.models import Family, load, save
from toolkit.train.loop import checkpoint_path
from toolkit.train.stages import STAGES


def begin(work_dir: Path, folder: Path, image_encoder: Path | None = None, seed: int = 0) -> None:
    """Lets the stages of a new work directory start from the weights in `folder`.

    seed: of what the folder lacks, such as a subject fuser for Stable Diffusion. Nothing happens if
    they do already. Raises InputError if the work directory began otherwise.
    """
    start, source = Path(work_dir) / "start", str(Path(folder).resolve())
    if start.exists():
        began = json.loads((start / "source.json").read_text(encoding="utf-8"))["folder"]
        if began != source:
            raise InputError(f"{work_dir} began from {began}, not from {source}: take another --work-dir")
        return
    if any(checkpoint_path(work_dir, stage).exists() for stage in STAGES):
        raise InputError(f"{work_dir} has checkpoints that began from random weights: take another --work-dir")
    torch.manual_seed(seed)
    family = sources.read(folder, image_encoder)
    part = start.with_name("start.part")
    save(family, part)
    (part / "source.json").write_text(json.dumps({"folder": source}) + "\n", encoding="utf-8")
    part.rename(start)


def start_of(work_dir: Path) -> Family | None:
    """What the work directory began from; None = random weights."""
    start = Path(work_dir) / "start"
    return load(start) if start.exists() else None
