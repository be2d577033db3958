"""One line a picture, one CSV a row: what a picture scored, and a digest of all that it depends on."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.evaluate import pair_scores
from toolkit.evaluate.pair_scores import PairScore, fields_of
from toolkit.evaluate.pairs import Pair
from toolkit.evaluate.statistics import Estimate, harmonic_mean, mean
from toolkit.report.rows import Parameters, Row

# What was drawn or scored under another edition is measured again. Raise it with a change to toolkit.reference,
# toolkit.evaluate.metrics or the gateway that changes pictures or scores.
EDITION = 1
COLUMNS = (*pair_scores.COLUMNS, "seconds", "digest")


class StaleError(ValueError):
    """A CSV that was measured on something else than what is there now."""


@dataclass(frozen=True)
class Score(PairScore):
    """seconds: wall time of drawing and scoring, divided by the pictures that were in work at a time, so
    that a row's sum is what the row took. digest: of all that the score depends on (Basis.score)."""

    seconds: float
    digest: str


@dataclass(frozen=True)
class Basis:
    """What every score depends on beside its own row and pair. weights: `weights_sha256` of the family's
    pipeline.json; metrics: a digest of the metric networks."""

    weights: str
    metrics: str

    def picture(self, row: Row, parameters: Parameters, pair: Pair, where: str) -> str:
        """Digest of what a picture depends on."""
        facts = [EDITION, self.weights, where, row.name, parameters.given(), pair.prompt, pair.seed]
        sha = hashlib.sha256(json.dumps(facts).encode())
        for reference in pair.references:
            sha.update(np.ascontiguousarray(reference).tobytes())
        return sha.hexdigest()[:12]

    def score(self, row: Row, parameters: Parameters, pair: Pair, where: str) -> str:
        """Digest of what a score depends on."""
        return hashlib.sha256(f"{self.picture(row, parameters, pair, where)} {self.metrics}".encode()).hexdigest()[:12]


def write(path: Path, scores: Sequence[Score]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([*score.cells(), f"{score.seconds:.3f}", score.digest] for score in scores)
    part.replace(path)


def read(path: Path) -> list[Score]:
    """Raises StaleError for a file of other columns."""
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != COLUMNS:
            raise StaleError(f"{path} has the columns {table.fieldnames}; expected {list(COLUMNS)}")
        return [Score(**fields_of(line), seconds=float(line["seconds"]), digest=line["digest"]) for line in table]


def read_fresh(path: Path, digests: Sequence[str]) -> list[Score]:
    """The scores of exactly the pictures that these digests describe, in order.

    Raises FileNotFoundError, and StaleError that says how much of the file is of something else.
    """
    scores = read(path)
    found = [score.digest for score in scores]
    if found != list(digests):
        known = len(set(found) & set(digests))
        raise StaleError(
            f"{path} holds {len(found)} pictures, of which {known} are of the {len(digests)} that the present weights, "
            "parameters, pairs and metric networks ask for"
        )
    return scores


def values(scores: Sequence[Score], name: str) -> np.ndarray:
    """`identity` or `prompt` of every picture."""
    return np.array([getattr(score, name) for score in scores])


def people(scores: Sequence[Score]) -> list[str]:
    """Whom every picture shows, for the statistics."""
    return [score.person for score in scores]


def estimate(scores: Sequence[Score], name: str) -> Estimate:
    """Of `identity`, `prompt` or `harmonic mean`."""
    if name == "harmonic mean":
        return harmonic_mean(values(scores, "identity"), values(scores, "prompt"), people(scores))
    return mean(values(scores, name), people(scores))
