"""Scores of pictures: what judges read against what was asked, and who won the fusion's pixels."""

import numpy as np

from toolkit.evaluate.judges import CLASSES, Judge, read
from toolkit.evaluate.pairs import Pair

# What the family is held to.
TARGETS = {"hair_colour": 0.90, "skin": 0.90, "glasses": 0.90, "headwear": 0.90, "place": 0.95}
BOTH_WIN = 0.10  # of the pixels, each model, in at least half of the fusion steps


def judge_pictures(judge: Judge, pairs: list[Pair], images: np.ndarray) -> tuple[dict[str, float], list[dict[str, str]]]:
    """(accuracy an attribute over the pairs that expect it, what was read on each picture)."""
    seen = read(judge, images)
    right = {
        key: [s[key] == p.expected[key] for s, p in zip(seen, pairs, strict=True) if key in p.expected] for key in CLASSES
    }
    return {key: float(np.mean(values)) for key, values in right.items() if values}, seen


def both_win(sdm_shares: list[float] | np.ndarray) -> float:
    """Share of fusion steps (of all pictures) in which each model wins at least a tenth of the pixels."""
    shares = np.asarray(sdm_shares, dtype=float).ravel()
    return float(np.mean((shares >= BOTH_WIN) & (shares <= 1 - BOTH_WIN))) if shares.size else 0.0
