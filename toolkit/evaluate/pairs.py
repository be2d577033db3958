"""Which person meets which sentence, fixed in advance.

The sheet's pairs are held-out people with prompts whose combinations no training sample shows
(toolkit.data.samples.HELD_OUT_SCENES). Validation pairs are other people and other sentences;
defaults such as stage bounds are chosen on them.
"""

from dataclasses import dataclass

import numpy as np

from toolkit.data import people, props, scenes
from toolkit.data.captions import write_caption
from toolkit.data.people import Identity, choose, draw_identity
from toolkit.data.samples import draw_reference, is_held_out
from toolkit.data.scenes import Scene

SHEET_PEOPLE = 20
# (prompt, place that the judge shall read)
SHEET_PROMPTS = (
    ("a {noun} <|image|> reading in the snow at night", "snow"),
    ("a {noun} <|image|> at the beach at sunset, wearing a red shirt", "beach"),
    ("a photo of a {noun} <|image|> holding a cup in the forest", "forest"),
    ("a {noun} <|image|> wearing a yellow shirt in the city at night", "city"),
    ("a {noun} <|image|> with a balloon in the desert", "desert"),
)


@dataclass(frozen=True)
class Pair:
    """reference is uint8 [size, size, 3]; expected holds what judges shall read in the picture."""

    identity: Identity
    reference: np.ndarray
    prompt: str
    expected: dict[str, str]
    seed: int


def expectation(identity: Identity, place: str) -> dict[str, str]:
    looks = identity.attributes()
    return {key: looks[key] for key in ("hair_colour", "skin", "glasses")} | {"place": place}


def sheet_pairs(reference_size: int = 256, count: int = SHEET_PEOPLE) -> list[Pair]:
    """All prompts of person 0, then of person 1 and so on."""
    pairs = []
    for person in range(count):
        rng = np.random.default_rng([1, person])
        identity = draw_identity(rng, "held_out")
        reference = draw_reference(rng, identity, reference_size)
        for k, (prompt, place) in enumerate(SHEET_PROMPTS):
            seed = 1000 + len(SHEET_PROMPTS) * person + k
            pairs.append(
                Pair(identity, reference, prompt.format(noun=identity.noun), expectation(identity, place), seed)
            )
    return pairs


def validation_pairs(count: int, reference_size: int = 64) -> list[Pair]:
    """One sentence a person."""
    pairs = []
    for number in range(count):
        rng = np.random.default_rng([2, number])
        identity = draw_identity(rng, "validation")
        reference = draw_reference(rng, identity, reference_size)
        while True:
            scene = Scene(scenes.PLACES[number % len(scenes.PLACES)], choose(rng, scenes.TIMES))
            prop = choose(rng, props.PROPS) if rng.random() < 0.3 else None
            clothes = f"{choose(rng, tuple(people.CLOTHES_COLOURS))} shirt"
            if not is_held_out(scene, prop, clothes):
                break
        named = clothes if rng.random() < 0.6 else None
        prompt = write_caption(rng, scene, [identity.noun], prop, named, plain=True)
        pairs.append(Pair(identity, reference, prompt, expectation(identity, scene.place), number))
    return pairs
