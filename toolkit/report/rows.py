"""The methods that the tables compare, and the values that each may choose from on validation pairs."""

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from toolkit.evaluate.client import text_only
from toolkit.evaluate.pairs import Pair
from toolkit.reference.method import FaceDiffuser
from toolkit.reference.variants import Average, DelayedSubject, FixedMask, RandomMask

STEPS = 50  # the paper's, and the family's default
# Inclusive stage bounds as step indices; the paper's are 15 and 30. -1 leaves scene construction out, the last
# step subject enhancement.
STARTS = (-1, 5, 10, 15)
FINALS = (15, 30, 40, 49)
GUIDANCE = (2.0, 3.0, 5.0, 7.0)  # the paper's is 5
ALPHAS = (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Parameters:
    """Of one picture; None = the row has no such parameter."""

    guidance_scale: float
    start_merge_step: int | None = None
    final_step: int | None = None
    alpha: float | None = None
    num_inference_steps: int = STEPS

    def given(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        """For file names, and back by `parse`: guidance_scale=3,start_merge_step=5,..."""
        return ",".join(f"{name}={value:g}" for name, value in self.given().items())

    @classmethod
    def parse(cls, text: str) -> "Parameters":
        """Raises ValueError (TypeError for a name that is no parameter)."""
        values = dict(part.split("=") for part in text.split(","))
        whole = ("start_merge_step", "final_step", "num_inference_steps")
        return cls(**{name: int(value) if name in whole else float(value) for name, value in values.items()})

    @property
    def sdm_steps(self) -> int:
        """Steps that run the subject model."""
        return 0 if self.start_merge_step is None else self.num_inference_steps - 1 - self.start_merge_step


Sweep = dict[str, tuple]  # parameter → values; several parameters: all their combinations


@dataclass(frozen=True)
class Row:
    """sweeps: one after the other from `start` on, each around the best point so far.
    gateway: whether the HTTP API can express it; where not, the reference draws it. subjects: whether it
    is shown the references; a row that is not is chosen by its prompt score alone, as its identity score is chance."""

    name: str
    title: str
    about: str
    start: Parameters
    sweeps: tuple[Sweep, ...]
    gateway: bool = False
    subjects: bool = True
    method: Callable[[Pair, Parameters], FaceDiffuser] = lambda pair, parameters: FaceDiffuser()

    @property
    def where(self) -> str:
        """Where the table's pictures come from."""
        return "gateway" if self.gateway else "reference"

    def points(self, best: Parameters, sweep: Sweep) -> list[Parameters]:
        """A sweep's combinations, the rest as in `best`. Where both bounds vary there is at least
        one step of fusion: without any the fusions would all be the same."""
        combinations = itertools.product(*sweep.values())
        points = [replace(best, **dict(zip(sweep, values, strict=True))) for values in combinations]
        return [
            p
            for p in points
            if p.start_merge_step is None or "final_step" not in sweep or p.start_merge_step < p.final_step
        ]

    def asked(self, pair: Pair) -> Pair:
        """What the method is told of a pair: for the scene model alone, the sentence and nobody."""
        return pair if self.subjects else text_only(pair)


_SCENE = Parameters(3.0)
_SUBJECT = Parameters(3.0, start_merge_step=-1, final_step=-1)
_DELAYED = replace(_SUBJECT, alpha=0.6)
_STAGES = Parameters(3.0, start_merge_step=5, final_step=15)
_GUIDANCE: Sweep = {"guidance_scale": GUIDANCE}
_BOUNDS: Sweep = {"start_merge_step": STARTS, "final_step": FINALS}

ROWS = (
    Row(
        "tdm_only",
        "TDM only",
        "The scene model alone, which is told the sentence and shown nobody: how well a prompt can be followed.",
        _SCENE,
        (_GUIDANCE,),
        gateway=True,
        subjects=False,
    ),
    Row(
        "sdm_only",
        "SDM only",
        "The subject model alone in all steps, guided from the sentence to the sentence with subjects: "
        "how well a person can be kept.",
        _SUBJECT,
        (_GUIDANCE,),
        gateway=True,
    ),
    Row(
        "sdm_delayed",
        "SDM, delayed subjects",
        "FastComposer's delayed subject conditioning: the subject model alone, guided from the empty prompt; "
        "the first (1 − α)·N steps see the sentence, the others the sentence with subjects.",
        _DELAYED,
        ({"alpha": ALPHAS}, _GUIDANCE),
        method=lambda pair, parameters: DelayedSubject(alpha=parameters.alpha),
    ),
    Row(
        "full",
        "Face-Diffuser (SNF)",
        "The whole method: scene construction, subject-scene fusion by saliency, subject enhancement.",
        _STAGES,
        (_BOUNDS, _GUIDANCE),
        gateway=True,
    ),
    Row(
        "fusion_average",
        "Fusion: average",
        "The same stages, but the fused noise is the mean of both models' guided noises.",
        _STAGES,
        (_BOUNDS, _GUIDANCE),
        method=lambda pair, parameters: Average(),
    ),
    Row(
        "fusion_fixed_mask",
        "Fusion: fixed mask",
        "The same stages, but the subject model always has one box a person: of as many equal columns as there are "
        "people, the middle three quarters of each, in the lower three quarters of the picture (where this world's "
        "people stand).",
        _STAGES,
        (_BOUNDS, _GUIDANCE),
        method=lambda pair, parameters: FixedMask(subjects=len(pair.references)),
    ),
    Row(
        "fusion_random_mask",
        "Fusion: random mask",
        "The same stages, but a fair coin a pixel and step says which model it is taken from.",
        _STAGES,
        (_BOUNDS, _GUIDANCE),
        method=lambda pair, parameters: RandomMask(seed=pair.seed),
    ),
)
FULL, SDM_ONLY, TDM_ONLY = "full", "sdm_only", "tdm_only"
SETS = {"single": "one subject", "double": "two subjects"}
