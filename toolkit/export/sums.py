"""SHA256SUMS: the hash of every weight file, so that the gateway can say which one is damaged."""

import hashlib
from pathlib import Path

NAME = "SHA256SUMS"


def write(models: Path) -> None:
    """Writes it beside the networks in `models`, as `sha256sum --check` reads it."""
    lines = []
    for path in sorted(models.glob("*/1/model.onnx*")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(models).as_posix()}\n")
    (models / NAME).write_text("".join(lines), encoding="utf-8")
