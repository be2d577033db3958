"""Example pictures: the first two pairs of every group of prompts, as every row draws them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from toolkit.data.held_out import GROUPS
from toolkit.evaluate.pairs import Pair
from toolkit.report.rows import Parameters, Row
from toolkit.report.scores import Basis, StaleError

PAIRS_A_GROUP = 2
CELL = 128
QUALITY = 90  # of WebP

Chosen = Sequence[tuple[Row, Parameters]]


@dataclass(frozen=True)
class Examples:
    """webp: a line a pair; a column a reference, then one a row of the table."""

    webp: bytes
    pairs: list[Pair]
    rows: list[Row]

    @property
    def references(self) -> int:
        return max(len(pair.references) for pair in self.pairs)


def first_of_groups(pairs: Sequence[Pair]) -> list[Pair]:
    """By rule, so that nobody picks."""
    return [pair for group in GROUPS for pair in [p for p in pairs if p.group == group][:PAIRS_A_GROUP]]


def write(
    path: Path,
    pairs: Sequence[Pair],
    rows: Chosen,
    basis: Basis,
    picture: Callable[[Row, Parameters, Pair], Image.Image],
) -> None:
    """Writes `path` (WebP) and, beside it, the digests of the pictures in it (JSON)."""
    pairs = first_of_groups(pairs)
    references = max(len(pair.references) for pair in pairs)
    grid = Image.new("RGB", ((references + len(rows)) * CELL, len(pairs) * CELL), "white")
    for y, pair in enumerate(pairs):
        cells = [Image.fromarray(reference) for reference in pair.references]
        cells += [picture(row, parameters, pair) for row, parameters in rows]
        for x, cell in enumerate(cells):
            grid.paste(cell.resize((CELL, CELL), Image.Resampling.LANCZOS), (x * CELL, y * CELL))
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(path, quality=QUALITY, method=6)
    path.with_suffix(".json").write_text(json.dumps(_digests(pairs, rows, basis), indent=1) + "\n", encoding="utf-8")


def read_fresh(path: Path, pairs: Sequence[Pair], rows: Chosen, basis: Basis) -> Examples:
    """Raises FileNotFoundError, and StaleError for a grid of other pictures."""
    pairs = first_of_groups(pairs)
    if json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) != _digests(pairs, rows, basis):
        raise StaleError(f"{path} shows pictures of other weights, parameters, rows or pairs")
    return Examples(path.read_bytes(), pairs, [row for row, _ in rows])


def _digests(pairs: Sequence[Pair], rows: Chosen, basis: Basis) -> dict[str, list[str]]:
    return {pair.name: [basis.picture(row, parameters, pair, row.where) for row, parameters in rows] for pair in pairs}
