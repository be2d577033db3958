"""All that was measured, read back from the committed files; needs neither pictures nor networks."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.evaluate.pairs import Pair
from toolkit.report import agreement, examples
from toolkit.report.agreement import Difference
from toolkit.report.choice import Choice, Choices, choose
from toolkit.report.examples import Examples
from toolkit.report.measure import Folders
from toolkit.report.rows import FULL, ROWS, SETS, Parameters, Row
from toolkit.report.scores import Basis, Score, StaleError, read_fresh


@dataclass
class Results:
    """table: (row, set) → scores. sweeps: row → point → scores. examples: by set. machine: where it was
    measured. missing: the files that are not there yet."""

    choices: dict[str, Choice] = field(default_factory=dict)
    table: dict[tuple[str, str], list[Score]] = field(default_factory=dict)
    sweeps: dict[str, dict[Parameters, list[Score]]] = field(default_factory=dict)
    agreement: list[Difference] = field(default_factory=list)
    examples: dict[str, Examples] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def seconds(self, row: str) -> tuple[float, float]:
        """(of its sweeps, of its tables)."""
        swept = sum(s.seconds for scores in self.sweeps.get(row, {}).values() for s in scores)
        return swept, sum(s.seconds for (name, _), scores in self.table.items() if name == row for s in scores)

    @property
    def hours(self) -> float:
        """Of measuring everything that is here."""
        rows = sum(sum(self.seconds(row.name)) for row in ROWS)
        return (rows + sum(d.seconds for d in self.agreement)) / 3600


def agreement_pairs(sets: Mapping[str, Sequence[Pair]]) -> list[Pair]:
    return [pair for name in SETS for pair in sets[name][: agreement.PAIRS_A_SET]]


def load(folders: Folders, basis: Basis, sets: Mapping[str, Sequence[Pair]], rows: Sequence[Row] = ROWS) -> Results:
    """sets: the pairs of `single`, `double` and `validation`.

    Raises StaleError for a file that was measured with other weights, parameters, pairs or metric
    networks than those that are there now: a page never mixes them.
    """
    results = Results()

    def attempt(read: Callable, path: Path, digests: Sequence[str]) -> list:
        try:
            return read(path, digests)
        except FileNotFoundError:
            results.missing.append(path.relative_to(folders.out).as_posix())
            return []

    try:
        results.choices = Choices(folders.choices, basis.weights, basis.metrics).read()
    except FileNotFoundError:
        results.missing.append(folders.choices.name)
    for row in rows:
        results.sweeps[row.name] = sweep = _sweep(folders, basis, row, sets["validation"])
        _replay(row, sweep, results.choices.get(row.name), folders, results.missing)
        if row.name not in results.choices:
            results.missing += [folders.row(row, name).relative_to(folders.out).as_posix() for name in SETS]
            continue
        chosen = results.choices[row.name].parameters
        for name in SETS:
            digests = [basis.score(row, chosen, pair, row.where) for pair in sets[name]]
            if scores := attempt(read_fresh, folders.row(row, name), digests):
                results.table[row.name, name] = scores
        if row.name == FULL:
            digests = [agreement.digest(row, chosen, pair, basis) for pair in agreement_pairs(sets)]
            results.agreement = attempt(agreement.read_fresh, folders.agreement, digests)
    for name in SETS:
        chosen = [(row, results.choices[row.name].parameters) for row in rows if (row.name, name) in results.table]
        try:
            results.examples[name] = examples.read_fresh(folders.examples(name), sets[name], chosen, basis)
        except FileNotFoundError:
            results.missing.append(folders.examples(name).relative_to(folders.out).as_posix())
    if folders.machine.exists():
        results.machine = json.loads(folders.machine.read_text(encoding="utf-8"))
    return results


def _replay(
    row: Row, sweep: Mapping[Parameters, Sequence[Score]], chosen: Choice | None, folders: Folders, missing: list[str]
) -> None:
    """Comes by the row's choice again, from its sweeps; notes the points that are not there yet.

    Raises StaleError if the rule chooses another point than choices.json says.
    """
    best, measured = row.start, {}
    for values in row.sweeps:
        points = row.points(best, values)
        if absent := [point for point in points if point not in sweep]:
            missing += [folders.point(row, point).relative_to(folders.out).as_posix() for point in absent]
            return
        measured |= {point: sweep[point] for point in points}
        choice = choose(row, measured)
        best = choice.parameters
    if chosen is not None and chosen != choice:
        raise StaleError(
            f"{folders.choices} says {chosen.parameters} of {row.name}, but its sweeps say {choice.parameters}: measure "
            "again with `make report`"
        )


def _sweep(folders: Folders, basis: Basis, row: Row, pairs: Sequence[Pair]) -> dict[Parameters, list[Score]]:
    points = {}
    for path in sorted((folders.sweeps / row.name).glob("*.csv")):
        try:
            parameters = Parameters.parse(path.stem)
        except (ValueError, TypeError) as error:
            raise StaleError(f"{path} is not named after parameters: {error}") from None
        points[parameters] = read_fresh(path, [basis.score(row, parameters, pair, "reference") for pair in pairs])
    return points
