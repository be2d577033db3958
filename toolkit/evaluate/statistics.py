"""Means of scores, how sure they are, and whether one row of a table beats another.

Every statistic here is a function of means over pairs (a mean itself, the harmonic mean of two,
a difference of two rows), so one bootstrap serves all: people are drawn with replacement, all
pairs of a person and all columns of a pair stay together, and the interval is the percentile
interval of Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

`people` names whom each pair shows: one face in four sentences gives four scores that are not
independent. Without it every pair is a person of its own.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic, the sample standard deviation where it has one (of a mean; else nan), and the
    ends of its bootstrap interval, over `count` pairs."""

    value: float
    std: float
    low: float
    high: float
    count: int

    def __format__(self, spec: str) -> str:
        """'0.712 ± 0.101 [0.698, 0.726]', each number in the format `spec` (default .3f)."""
        spec = spec or ".3f"
        spread = "" if np.isnan(self.std) else f" ± {self.std:{spec}}"
        return f"{self.value:{spec}}{spread} [{self.low:{spec}}, {self.high:{spec}}]"


def mean(values: Sequence[float], people: Sequence[str] | None = None, seed: int = 0) -> Estimate:
    """The mean of one score."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return _bootstrap(lambda m: m[0], [values], people, seed, std)


def harmonic_mean(
    first: Sequence[float], second: Sequence[float], people: Sequence[str] | None = None, seed: int = 0
) -> Estimate:
    """The harmonic mean of two scores' means (of identity and prompt: high only if both are)."""
    return _bootstrap(lambda m: _harmonic(m[0], m[1]), [first, second], people, seed)


def difference(
    ours: Sequence[float], theirs: Sequence[float], people: Sequence[str] | None = None, seed: int = 0
) -> Estimate:
    """Mean of one row minus that of another on the same pairs in the same order."""
    return _bootstrap(lambda m: m[0] - m[1], [ours, theirs], people, seed)


def harmonic_difference(
    ours: tuple[Sequence[float], Sequence[float]],
    theirs: tuple[Sequence[float], Sequence[float]],
    people: Sequence[str] | None = None,
    seed: int = 0,
) -> Estimate:
    """Harmonic mean of one row's two scores minus that of another row, same pairs, same order."""
    return _bootstrap(lambda m: _harmonic(m[0], m[1]) - _harmonic(m[2], m[3]), [*ours, *theirs], people, seed)


def is_better(gap: Estimate) -> bool:
    """Whether a difference lies above zero with its whole interval."""
    return gap.low > 0


def _harmonic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """2ab / (a + b), and 0 unless both are positive."""
    positive = (a > 0) & (b > 0)
    total = np.where(positive, a + b, 1.0)
    return np.where(positive, 2 * a * b / total, 0.0)


def _bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    columns: Sequence[Sequence[float]],
    people: Sequence[str] | None,
    seed: int,
    std: float = float("nan"),
) -> Estimate:
    """statistic maps means [columns, ...] to values [...]."""
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise ValueError(f"the columns hold {sorted(lengths)} scores; they must be of the same pairs in the same order")
    values = np.array(columns, dtype=float)
    count = values.shape[1]
    if count == 0 or not np.isfinite(values).all():
        raise ValueError("a statistic needs at least one pair and finite scores in all")
    _, person = np.unique(np.arange(count) if people is None else np.asarray(people), return_inverse=True)
    if len(person) != count:
        raise ValueError(f"{len(person)} people for {count} pairs")
    pairs = np.bincount(person)  # of each person
    sums = np.stack([np.bincount(person, weights=column) for column in values])
    drawn = _resamples(RESAMPLES, len(pairs), seed)
    resampled = statistic((sums @ drawn.T) / (pairs.astype(float) @ drawn.T))
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(statistic(values.mean(axis=1))), std, float(low), float(high), count)


@functools.lru_cache(maxsize=8)
def _resamples(count: int, people: int, seed: int) -> np.ndarray:
    """How often each person is drawn into each of `count` resamples, [count, people]: all means are then two
    matrix products. Kept, because a page of tables asks hundreds of times about the same few sets of
    people, and drawing takes longer than all else; float64, which has fast products."""
    drawn = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=count).astype(float)
    drawn.flags.writeable = False  # shared by all who ask
    return drawn
