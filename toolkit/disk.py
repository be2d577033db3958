"""Room for what a command is about to write."""

import shutil
from pathlib import Path

from toolkit.errors import InputError


def check_room(out: Path, needed: int) -> None:
    """Raises InputError where a disk has no room for the bytes that are needed."""
    there = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(f"{out} needs {needed / 2**30:.2f} GiB, {there} has {free / 2**30:.2f} GiB free")
