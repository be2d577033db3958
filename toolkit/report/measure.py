"""Draws and scores whatever is missing: the sweeps on validation pairs, then the tables' rows."""

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from toolkit.evaluate.metrics import Metrics
from toolkit.evaluate.pairs import Pair
from toolkit.report.choice import Choice, Choices, choose
from toolkit.report.pictures import Album, Artist, timed
from toolkit.report.rows import Parameters, Row
from toolkit.report.scores import Basis, Score, StaleError, read, read_fresh, write


class MeasuringError(RuntimeError):
    """Something that must be there before measuring is not."""


@dataclass(frozen=True)
class Folders:
    """`out` is committed: docs/report."""

    out: Path

    @property
    def choices(self) -> Path:
        return self.out / "choices.json"

    @property
    def agreement(self) -> Path:
        return self.out / "rows" / "agreement.csv"

    @property
    def machine(self) -> Path:
        return self.out / "machine.json"

    def examples(self, name: str) -> Path:
        return self.out / "examples" / f"{name}.webp"

    @property
    def sweeps(self) -> Path:
        return self.out / "sweeps"

    def row(self, row: Row, name: str) -> Path:
        return self.out / "rows" / f"{row.name}-{name}.csv"

    def point(self, row: Row, parameters: Parameters) -> Path:
        return self.sweeps / row.name / f"{parameters}.csv"


@dataclass
class Bench:
    """Everything that measuring needs. workers: pictures in work at a time."""

    folders: Folders
    album: Album
    basis: Basis
    metrics: Metrics
    reference: Artist
    gateway: Artist | None
    workers: int = 2
    say: Callable[[str], None] = lambda line: tqdm.write(line, file=sys.stderr)
    bar: tqdm = field(default_factory=lambda: tqdm(disable=True))
    _scoring: threading.Lock = field(default_factory=threading.Lock)

    def artist(self, row: Row) -> Artist:
        """Raises MeasuringError for a row of the gateway's where none was given."""
        if not row.gateway:
            return self.reference
        if self.gateway is None:
            raise MeasuringError(f"{row.name} is measured through a gateway: start one and give its --url")
        return self.gateway

    def choose(self, row: Row, validation: Sequence[Pair]) -> Choice:
        """Sweeps one row on validation pairs, in the reference, and writes its choice down."""
        measured: dict[Parameters, list[Score]] = {}
        best = row.start
        for sweep in row.sweeps:
            paths = {point: self.folders.point(row, point) for point in row.points(best, sweep)}
            measured |= self.measure(row, paths, validation, self.reference)
            choice = choose(row, measured)
            best = choice.parameters
        for path in (self.folders.sweeps / row.name).glob("*.csv"):
            if Parameters.parse(path.stem) not in measured:
                self.say(f"removing {path}: the sweeps do not come by it any more")
                path.unlink()
        Choices(self.folders.choices, self.basis.weights, self.basis.metrics).write(row.name, choice)
        return choice

    def tabulate(self, row: Row, name: str, parameters: Parameters, pairs: Sequence[Pair]) -> list[Score]:
        """A row of the table of one set."""
        paths = {parameters: self.folders.row(row, name)}
        return self.measure(row, paths, pairs, self.artist(row))[parameters]

    def picture(self, row: Row, parameters: Parameters, pair: Pair) -> Image.Image:
        """A picture of the table: the one that was scored or, where it is not kept, the same drawn again."""
        path = self.album.path(row.name, pair.name, self.basis.picture(row, parameters, pair, row.where))
        return self.album.find(path).picture if path.exists() else next(self.artist(row).draw(row, pair, [parameters]))

    def measure(
        self, row: Row, paths: Mapping[Parameters, Path], pairs: Sequence[Pair], artist: Artist
    ) -> dict[Parameters, list[Score]]:
        """The scores of every point, from its CSV where that is up to date; else drawn, scored and written."""
        measured, missing = {}, []
        for point, path in paths.items():
            digests = [self.basis.score(row, point, pair, artist.where) for pair in pairs]
            try:
                measured[point] = read_fresh(path, digests)
                self.bar.update(len(pairs))
            except FileNotFoundError:
                missing.append(point)
            except StaleError as stale:
                self.say(f"{stale}; measuring it again")
                missing.append(point)
        if missing:
            self.bar.set_postfix_str(f"{row.name}, {artist.where}")
            by_pair = self._work(lambda pair: self._scores(row, missing, pair, artist), pairs)
            for point, scores in zip(missing, zip(*by_pair, strict=True), strict=True):
                write(paths[point], scores)
                measured[point] = read(paths[point])  # rounded, as the next run will find it
        return measured

    def _work(self, job: Callable[[Pair], list[Score]], pairs: Sequence[Pair]) -> list[list[Score]]:
        """`workers` pairs at a time; an error or an interrupt lets only those end that have begun."""
        pool = ThreadPoolExecutor(self.workers)
        try:
            return list(pool.map(job, pairs))
        finally:
            pool.shutdown(cancel_futures=True)

    def _scores(self, row: Row, points: Sequence[Parameters], pair: Pair, artist: Artist) -> list[Score]:
        """One pair's score for each point, from pictures that are kept for a run that is cut."""
        files = {
            point: self.album.path(row.name, pair.name, self.basis.picture(row, point, pair, artist.where))
            for point in points
        }
        missing = [point for point, path in files.items() if not path.exists()]
        for point, drawn in zip(missing, timed(artist.draw(row, pair, missing)), strict=True):
            self.album.keep(files[point], drawn)
            self.bar.update()
        self.bar.update(len(points) - len(missing))
        return [self._score(row, point, pair, artist, path) for point, path in files.items()]

    def _score(self, row: Row, parameters: Parameters, pair: Pair, artist: Artist, path: Path) -> Score:
        drawn = self.album.find(path)
        image = np.asarray(drawn.picture)
        with self._scoring:  # the metric networks' tokenizer must not be used by two threads at a time
            start = time.perf_counter()
            match = self.metrics.identity(image, pair.references)
            prompt = float(self.metrics.prompt([image], [pair.prompt])[0])
            scoring = time.perf_counter() - start
        seconds = drawn.seconds / self.workers + scoring
        digest = self.basis.score(row, parameters, pair, artist.where)
        return Score(pair.name, pair.person, pair.group, pair.seed, match, prompt, seconds, digest)


def pictures_planned(rows: Sequence[Row], validation: int, table: int) -> int:
    """Upper bound of the pictures that choosing (on `validation` pairs, 0 to leave it out) and
    tabulating (on `table` pairs) ask for, with those that are cached."""
    points = sum(len(row.points(row.start, sweep)) for row in rows for sweep in row.sweeps)
    return points * validation + len(rows) * table
