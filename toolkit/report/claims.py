"""What the paper and this family promise, each with what was measured and whether it holds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from toolkit.evaluate.statistics import Estimate, difference, harmonic_difference, is_better, mean
from toolkit.report.results import Results
from toolkit.report.rows import FULL, ROWS, SDM_ONLY, SETS, TDM_ONLY
from toolkit.report.scores import Score, people, values

PAIRS = {"single": 200, "double": 100}
IDENTITY_KEPT = 0.95  # of the subject model's alone
PROMPT_KEPT = 0.97  # of the scene model's alone
KEPT_APART = 0.90  # of the two-subject pictures
PIXEL_TOLERANCE = 2  # of 255, as in toolkit/tests/test_parity.py


@dataclass(frozen=True)
class Claim:
    """holds is None where nothing was measured yet."""

    text: str
    measured: str
    holds: bool | None


def claims(results: Results) -> list[Claim]:
    return [claim for name in SETS for claim in _of_set(results, name)] + [_apart(results), _agreement(results)]


def _of_set(results: Results, name: str) -> Iterator[Claim]:
    rows = {row.name: results.table[row.name, name] for row in ROWS if (row.name, name) in results.table}
    of = SETS[name]
    full, tdm, sdm = rows.get(FULL), rows.get(TDM_ONLY), rows.get(SDM_ONLY)
    count = len(full or [])
    yield Claim(
        f"{of}: at least {PAIRS[name]} held-out pairs", f"{count} pairs", count >= PAIRS[name] if full else None
    )
    yield _kept(f"{of}: the full method keeps at least {IDENTITY_KEPT:.0%} of SDM only's identity score",
                full, sdm, "identity", IDENTITY_KEPT)  # fmt: skip
    yield _kept(f"{of}: the full method keeps at least {PROMPT_KEPT:.0%} of TDM only's prompt score",
                full, tdm, "prompt", PROMPT_KEPT)  # fmt: skip
    yield _best(f"{of}: the full method has the best harmonic mean of all rows, outside the bootstrap interval", rows)


def _kept(text: str, full: list[Score] | None, other: list[Score] | None, score: str, share: float) -> Claim:
    """Holds if the mean is at least the share of the other's; the interval says how sure that is."""
    if not full or not other:
        return Claim(text, "not measured yet", None)
    ours, theirs = values(full, score), values(other, score)
    margin = difference(ours, share * theirs, people(full))
    measured = f"{ours.mean() / theirs.mean():.1%} ({ours.mean():.3f} of {theirs.mean():.3f})"
    measured += f"; above the bar by {margin.value:+.3f} [{margin.low:+.3f}, {margin.high:+.3f}]"
    return Claim(text, measured, bool(margin.value >= 0))


def _best(text: str, rows: dict[str, list[Score]]) -> Claim:
    """Holds if the difference to every other row lies above zero with its whole paired interval."""
    gaps = gaps_to_full(rows)
    if len(gaps) < len(ROWS) - 1:
        return Claim(text, "not measured yet", None)
    closest = min(gaps, key=lambda name: gaps[name].low)
    gap = gaps[closest]
    title = next(row.title for row in ROWS if row.name == closest)
    ahead = sum(is_better(g) for g in gaps.values())
    measured = (
        f"ahead of {ahead} of {len(gaps)} rows; closest: {title}, {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
    )
    return Claim(text, measured, ahead == len(gaps))


def gaps_to_full(rows: dict[str, list[Score]]) -> dict[str, Estimate]:
    """Harmonic mean of the full method minus that of each other row, paired."""
    if FULL not in rows:
        return {}
    ours = (values(rows[FULL], "identity"), values(rows[FULL], "prompt"))
    return {
        name: harmonic_difference(ours, (values(scores, "identity"), values(scores, "prompt")), people(scores))
        for name, scores in rows.items()
        if name != FULL
    }


def _apart(results: Results) -> Claim:
    text = (
        f"two subjects: pictures show two people, each nearer to its own reference than to the other's, "
        f"at least {KEPT_APART * 10:.0f} times of 10"
    )
    scores = results.table.get((FULL, "double"))
    if not scores:
        return Claim(text, "not measured yet", None)
    rate = kept_apart(scores)
    return Claim(text, f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}] of {rate.count}", rate.value >= KEPT_APART)


def kept_apart(scores: list[Score]) -> Estimate:
    """Share of two-subject pictures with two faces, each nearer to its own reference."""
    return mean([float(score.match.kept_apart) for score in scores], people(scores))


def _agreement(results: Results) -> Claim:
    text = f"gateway and reference draw the same pictures: no pixel differs by more than {PIXEL_TOLERANCE} of 255"
    gaps = results.agreement
    if not gaps:
        return Claim(text, "not measured yet", None)
    largest = max(gap.largest for gap in gaps)
    same = sum(gap.largest <= PIXEL_TOLERANCE for gap in gaps)
    mean_difference = np.mean([gap.mean for gap in gaps])
    measured = (
        f"{same} of {len(gaps)} pairs; largest difference {largest}, mean {mean_difference:.4f} of 255; "
        f"scores differ by at most {max(abs(g.identity) for g in gaps):.4f} (identity) and "
        f"{max(abs(g.prompt) for g in gaps):.4f} (prompt)"
    )
    return Claim(text, measured, largest <= PIXEL_TOLERANCE)
