"""The full method through the gateway and in the reference, on the same pairs: how far the pictures differ.

Rows that the HTTP API cannot express are drawn by the reference; this shows that they may stand in one
table with those of the gateway.
"""

import csv
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from tqdm import tqdm

from toolkit.evaluate.metrics import Metrics
from toolkit.evaluate.pairs import Pair
from toolkit.report.pictures import Artist
from toolkit.report.rows import Parameters, Row
from toolkit.report.scores import Basis, StaleError

PAIRS_A_SET = 10  # the first of each set


@dataclass(frozen=True)
class Difference:
    """Of one pair's two pictures. largest: of any pixel and channel, mean: of all, both of 255.
    identity, prompt: the gateway's score minus the reference's."""

    pair: str
    seed: int
    largest: int
    mean: float
    identity: float
    prompt: float
    seconds: float
    digest: str


def compare(
    row: Row,
    parameters: Parameters,
    pairs: Sequence[Pair],
    gateway: Artist,
    reference: Artist,
    metrics: Metrics,
    basis: Basis,
    bar: tqdm,
) -> list[Difference]:
    """One picture at a time: requests beside each other share batches in Triton, whose last bits depend
    on the batch's size (docs of the gateway state what that does to a seed)."""
    differences = []
    bar.set_postfix_str("agreement")
    for pair in pairs:
        start = time.perf_counter()
        pictures = [np.asarray(next(artist.draw(row, pair, [parameters]))) for artist in (gateway, reference)]
        identity = [metrics.identity(picture, pair.references).preservation for picture in pictures]
        prompt = metrics.prompt(pictures, [pair.prompt] * 2)
        gap = np.abs(pictures[0].astype(int) - pictures[1].astype(int))
        differences.append(
            Difference(
                pair.name,
                pair.seed,
                int(gap.max()),
                round(float(gap.mean()), 4),
                round(identity[0] - identity[1], 4),
                round(float(prompt[0] - prompt[1]), 4),
                round(time.perf_counter() - start, 3),
                digest(row, parameters, pair, basis),
            )
        )
        bar.update()
    return differences


def digest(row: Row, parameters: Parameters, pair: Pair, basis: Basis) -> str:
    return basis.score(row, parameters, pair, "gateway and reference")


def write(path: Path, differences: Sequence[Difference]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(field.name for field in fields(Difference))
        table.writerows(astuple(difference) for difference in differences)


def read_fresh(path: Path, digests: Sequence[str]) -> list[Difference]:
    """Raises FileNotFoundError, and StaleError for a comparison of other pictures."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    if [line.get("digest") for line in lines] != list(digests):
        raise StaleError(f"{path} compares pictures of other weights, parameters or pairs")
    return [Difference(**{f.name: f.type(line[f.name]) for f in fields(Difference)}) for line in lines]
