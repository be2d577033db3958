"""The three stages of a loop by step index (inclusive bounds, as released)."""

from dataclasses import dataclass

SCENE_CONSTRUCTION = "scene_construction"
SUBJECT_SCENE_FUSION = "subject_scene_fusion"
SUBJECT_ENHANCEMENT = "subject_enhancement"


@dataclass(frozen=True)
class Plan:
    """i <= start_merge_step: scene construction; i <= final_step: fusion; else enhancement."""

    steps: int
    start_merge_step: int
    final_step: int

    def __post_init__(self) -> None:
        if not -1 <= self.start_merge_step <= self.final_step <= self.steps - 1:
            raise ValueError(f"stage bounds must satisfy -1 <= start <= final <= {self.steps - 1}, got {self}")

    def stage(self, i: int) -> str:
        if i <= self.start_merge_step:
            return SCENE_CONSTRUCTION
        return SUBJECT_SCENE_FUSION if i <= self.final_step else SUBJECT_ENHANCEMENT

    def count(self, stage: str) -> int:
        return sum(self.stage(i) == stage for i in range(self.steps))


def make_plan(
    steps: int,
    fractions: dict,
    subjects: int,
    start_merge_step: int | None = None,
    final_step: int | None = None,
    iterations: int | None = None,
) -> Plan:
    """Defaults are fractions of the number of steps (`start_merge_fraction`, `final_fraction`),
    rounded half to even; an explicit bound is absolute, and the bound not given yields to it.
    Without subjects every step constructs the scene. The plan is of the loop's iterations, which
    may be more than `steps`."""
    last = (iterations or steps) - 1
    if not subjects:
        return Plan(last + 1, last, last)
    start = round(fractions["start_merge_fraction"] * steps) if start_merge_step is None else start_merge_step
    final = min(round(fractions["final_fraction"] * steps), last) if final_step is None else final_step
    if start_merge_step is None:
        start = min(start, final)
    elif final_step is None:
        final = max(final, start)
    plan = Plan(last + 1, start, final)
    if start >= last:
        raise ValueError("the plan leaves the subject model no step")
    return plan
