"""What the picture of one pair scored, and how that stands in a CSV."""

from collections.abc import Mapping
from dataclasses import dataclass

from toolkit.evaluate.metrics import IdentityScore

_SUBJECTS = 2  # columns; a pair of more people has its worst in `identity` all the same
COLUMNS = ("pair", "person", "group", "seed", "identity", "own_1", "own_2", "swapped_1", "swapped_2", "faces", "prompt")


@dataclass(frozen=True)
class PairScore:
    """pair: its name; person: whom it shows, see toolkit.evaluate.pairs.Pair. match: cosines of its faces. prompt: cosine of picture and sentence."""

    pair: str
    person: str
    group: str
    seed: int
    match: IdentityScore
    prompt: float

    @property
    def identity(self) -> float:
        """Of the worst subject."""
        return self.match.preservation

    @property
    def subjects(self) -> int:
        return len(self.match.own)

    def cells(self) -> list[str]:
        """Of COLUMNS, cosines with four decimals."""
        own, swapped = ([f"{v:.4f}" for v in cosines] for cosines in (self.match.own, self.match.swapped))
        cosines = [*own, *[""] * (_SUBJECTS - len(own)), *(swapped or [""] * _SUBJECTS)]
        about = [self.pair, self.person, self.group, str(self.seed)]
        return [*about, f"{self.identity:.4f}", *cosines, str(self.match.faces), f"{self.prompt:.4f}"]


def fields_of(line: Mapping[str, str]) -> dict:
    """A PairScore's fields from its cells by column."""
    own, swapped = (
        tuple(float(line[f"{name}_{k + 1}"]) for k in range(_SUBJECTS) if line[f"{name}_{k + 1}"])
        for name in ("own", "swapped")
    )
    match = IdentityScore(own, swapped, int(line["faces"]))
    about = {name: line[name] for name in ("pair", "person", "group")}
    return {**about, "seed": int(line["seed"]), "match": match, "prompt": float(line["prompt"])}
