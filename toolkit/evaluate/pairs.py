"""Which person meets which sentence, fixed in advance; nothing is chosen after a picture was seen.

sheet       20 held-out people in five held-out sentences each
single      204 pairs: 51 held-out people, in one held-out sentence of every group each
double      102 pairs of two held-out people who look different, six or seven in each held-out sentence
validation  40 pairs (28 of one person, 12 of two) of other people in other sentences; every default and
            every parameter of a table is chosen on them
"""

from dataclasses import dataclass

import numpy as np

from toolkit.data.captions import write_caption
from toolkit.data.held_out import DOUBLE, GROUPS, SHEET, SINGLE, Prompt
from toolkit.data.people import Identity, draw_identity
from toolkit.data.samples import SCENES, draw_content, draw_reference
from toolkit.models.tokenizer import MARKER

SHEET_PEOPLE = 20
SINGLE_PEOPLE = 51
DOUBLE_PAIRS = 102
VALIDATION = (28, 12)


@dataclass(frozen=True)
class Pair:
    """A picture to ask for.

    name: of the pair, also of its picture's file; person: who is shown, where several pairs of a set show the
    same (their scores are not independent), else the pair's own name; identities and references (uint8
    [size, size, 3]) in the order of the prompt's markers; group: one of held_out.GROUPS;
    expected: what judges shall read in a picture of one person (place always, looks as far as a
    picture in colour shows them).
    """

    name: str
    person: str
    identities: tuple[Identity, ...]
    references: tuple[np.ndarray, ...]
    prompt: str
    group: str
    expected: dict[str, str]
    seed: int


def pair_set(name: str, reference_size: int = 256) -> list[Pair]:
    """The pairs of a set, always the same and in the same order.

    Raises ValueError for an unknown name.
    """
    sets = {"sheet": sheet_pairs, "single": single_pairs, "double": double_pairs, "validation": validation_pairs}
    if name not in sets:
        raise ValueError(f"unknown set of pairs {name!r}, expected one of {', '.join(sets)}")
    return sets[name](reference_size)


def expectation(identities: tuple[Identity, ...], place: str, style: str | None = None) -> dict[str, str]:
    if len(identities) > 1 or style:
        return {"place": place}
    looks = {key: value for key, value in identities[0].attributes().items() if value is not None}
    return {key: looks[key] for key in ("hair_colour", "skin", "glasses", "headwear") if key in looks} | {"place": place}


def _pair(
    name: str, person: str, rng: np.random.Generator, identities: tuple, prompt: Prompt, size: int, seed: int
) -> Pair:
    references = tuple(draw_reference(rng, identity, size) for identity in identities)
    text = prompt.text.format(*(f"{identity.noun} {MARKER}" for identity in identities))
    expected = expectation(identities, prompt.place, prompt.style)
    return Pair(name, person, identities, references, text, prompt.group, expected, seed)


def sheet_pairs(reference_size: int = 256, count: int = SHEET_PEOPLE) -> list[Pair]:
    """All sentences of person 0, then of person 1 and so on."""
    pairs = []
    for person in range(count):
        rng = np.random.default_rng([1, person])
        identity = draw_identity(rng, "held_out")
        reference = draw_reference(rng, identity, reference_size)
        for k, prompt in enumerate(SHEET):
            text = prompt.text.format(f"{identity.noun} {MARKER}")
            expected = expectation((identity,), prompt.place)
            number = len(SHEET) * person + k
            about = (f"sheet-{number:03d}", f"sheet-person-{person:02d}", (identity,), (reference,), text)
            pairs.append(Pair(*about, prompt.group, expected, 1000 + number))
    return pairs


def single_pairs(reference_size: int = 256) -> list[Pair]:
    pairs = []
    by_group, met = {group: [p for p in SINGLE if p.group == group] for group in GROUPS}, set()
    for person in range(SINGLE_PEOPLE):
        rng = np.random.default_rng([3, person])
        while (identity := draw_identity(rng, "held_out")).looks in met:
            pass
        met.add(identity.looks)
        for group in GROUPS:
            prompt = by_group[group][person % len(by_group[group])]
            number = len(pairs)
            name, whose = f"single-{number:03d}", f"single-person-{person:02d}"
            pairs.append(_pair(name, whose, rng, (identity,), prompt, reference_size, 3000 + number))
    return pairs


def double_pairs(reference_size: int = 256) -> list[Pair]:
    pairs = []
    for number in range(DOUBLE_PAIRS):
        rng = np.random.default_rng([4, number])
        prompt = DOUBLE[number % len(DOUBLE)]
        name = f"double-{number:03d}"
        pairs.append(_pair(name, name, rng, _two(rng, "held_out"), prompt, reference_size, 4000 + number))
    return pairs


def validation_pairs(reference_size: int = 256) -> list[Pair]:
    pairs = []
    for number in range(sum(VALIDATION)):
        rng = np.random.default_rng([2, number])
        two = number >= VALIDATION[0]
        identities = _two(rng, "validation") if two else (draw_identity(rng, "validation"),)
        group = GROUPS[number % len(GROUPS)]
        content = draw_content(rng, SCENES, len(identities), shows=group)
        named = group == "accessory" and content.accessory is None
        prompt = write_caption(rng, content, [i.noun for i in identities], named, plain=True)
        references = tuple(draw_reference(rng, identity, reference_size) for identity in identities)
        expected = expectation(identities, content.scene.place, content.style)
        name = f"validation-{number:03d}"
        pairs.append(Pair(name, name, identities, references, prompt, group, expected, 2000 + number))
    return pairs


def _two(rng: np.random.Generator, split: str) -> tuple[Identity, Identity]:
    """Two people who can be told apart: by hair colour (or headwear) or by skin."""
    while True:
        first, second = draw_identity(rng, split), draw_identity(rng, split)
        a, b = first.attributes(), second.attributes()
        if (a["hair_colour"], a["skin"], a["headwear_colour"]) != (b["hair_colour"], b["skin"], b["headwear_colour"]):
            return first, second
