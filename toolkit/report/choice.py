"""Each row's parameters, chosen by rule from what it scored on validation pairs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from toolkit.evaluate.statistics import harmonic_mean
from toolkit.report.rows import Parameters, Row
from toolkit.report.scores import Score, StaleError

RULE = (
    "the largest harmonic mean of the mean identity score and the mean prompt score over all validation pairs (for TDM "
    "only, which sees no subject, the largest mean prompt score); where several agree in the third decimal, the one with "
    "the fewest steps of the subject model, then the lowest guidance"
)


@dataclass(frozen=True)
class Choice:
    """The chosen point and the means it rests on; `points` were compared on `pairs` pairs."""

    parameters: Parameters
    identity: float
    prompt: float
    harmonic_mean: float
    points: int
    pairs: int


def choose(row: Row, measured: Mapping[Parameters, Sequence[Score]]) -> Choice:
    """By RULE."""
    choices = [summarise(parameters, scores, len(measured)) for parameters, scores in measured.items()]

    def rank(choice: Choice) -> tuple:
        return (
            -(choice.harmonic_mean if row.subjects else choice.prompt),
            choice.parameters.sdm_steps,
            choice.parameters.guidance_scale,
            str(choice.parameters),
        )

    return min(choices, key=rank)


def summarise(parameters: Parameters, scores: Sequence[Score], points: int = 1) -> Choice:
    """Means, rounded to the third decimal."""
    identity, prompt = [s.identity for s in scores], [s.prompt for s in scores]
    both = harmonic_mean(identity, prompt).value
    means = (round(float(value), 3) for value in (np.mean(identity), np.mean(prompt), both))
    return Choice(parameters, *means, points, len(scores))


class Choices:
    """The committed file of all rows' choices, valid for one set of weights and metric networks."""

    def __init__(self, path: Path, weights: str, metrics: str) -> None:
        self.path = path
        self._basis = {"weights_sha256": weights, "metrics": metrics}

    def write(self, row: str, choice: Choice) -> None:
        """Beside those of the other rows; choices made for other weights are dropped."""
        try:
            rows = self._load()
        except (FileNotFoundError, StaleError):
            rows = {}
        rows[row] = asdict(choice) | {"parameters": choice.parameters.given()}
        text = json.dumps({"rule": RULE, **self._basis, "rows": dict(sorted(rows.items()))}, indent=1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(text + "\n", encoding="utf-8")

    def read(self) -> dict[str, Choice]:
        """By row. Raises FileNotFoundError, and StaleError for choices made for other networks."""
        rows = self._load()
        return {name: Choice(**row | {"parameters": Parameters(**row["parameters"])}) for name, row in rows.items()}

    def _load(self) -> dict[str, dict]:
        content = json.loads(self.path.read_text(encoding="utf-8"))
        for key, value in self._basis.items():
            if content[key] != value:
                chosen_for = f"was chosen for {key} {content[key][:12]}, not {value[:12]}"
                raise StaleError(f"{self.path} {chosen_for}: measure again with `make report`")
        return content["rows"]
