"""Sentences for pictures. `<|image|>` follows the noun of every person."""

import numpy as np

from toolkit.data.people import choose
from toolkit.data.scenes import Scene
from toolkit.models.tokenizer import MARKER

_PREFIXES = ("", "", "", "a photo of ", "a picture of ", "an image of ", "a portrait of ")
_PLACES = {
    "beach": ("at the beach", "at the beach", "on the beach", "by the sea", "on a sandy beach"),
    "snow": ("in the snow", "in the snow", "in a snowy landscape", "in winter", "on a snowy hill"),
    "forest": ("in the forest", "in the forest", "in the woods", "in a green forest", "among the trees"),
    "city": ("in the city", "in the city", "on a city street", "in front of skyscrapers", "in a big city"),
    "desert": ("in the desert", "in the desert", "among sand dunes", "in a sandy desert"),
    "room": ("in a room", "in a room", "at home", "in the living room", "indoors"),
    "moon": ("on the moon", "on the moon", "in space"),
}
_TIMES = {
    "day": ("", "", "", "during the day", "in daylight", "on a sunny day"),
    "night": ("at night", "at night", "at night", "by night", "under the stars"),
    "sunset": ("at sunset", "at sunset", "at sunset", "in the evening", "at dusk"),
}
_PROPS = {
    "book": ("reading", "reading", "reading a book", "with a book"),
    "cup": ("holding a cup", "holding a cup", "with a cup of coffee", "drinking coffee"),
    "flower": ("holding a flower", "holding a flower", "with a flower"),
    "balloon": ("with a balloon", "with a balloon", "holding a balloon"),
}
_WEARING = ("wearing a {}", "wearing a {}", "in a {}", "dressed in a {}")


def article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def write_caption(
    rng: np.random.Generator,
    scene: Scene,
    nouns: list[str],
    prop: str | None = None,
    clothes: str | None = None,
    plain: bool = False,
) -> str:
    """One sentence.

    nouns: of the people from left to right; prop: what the only person holds; clothes: colour and
    garment of the only person ('red shirt') when the sentence shall name them; plain: first
    wording of everything, as the subject model's data has it.
    """

    def word(options):
        return options[0] if plain else choose(rng, options)

    place = word(_PLACES[scene.place])
    time = word(_TIMES[scene.time]) if scene.place != "moon" else ""
    where = " ".join(part for part in (place, time) if part)
    if scene.detail:
        where += f" with {article(scene.detail)}" if rng.random() < 0.7 else f" next to {article(scene.detail)}"
    if not nouns:
        text = word(("", "a photo ", "a picture of a scene ", "a view ")) + where
        return text if not plain else where
    people = [f"{article(noun)} {MARKER}" if rng.random() < 0.85 else f"the {noun} {MARKER}" for noun in nouns]
    who = people[0] if len(people) == 1 else ", ".join(people[:-1]) + " and " + people[-1]
    parts = [who]
    if prop:
        parts.append(word(_PROPS[prop]))
    wearing = word(_WEARING).format(clothes).replace("a orange", "an orange") if clothes else ""
    if wearing and rng.random() < 0.5:
        sentence = " ".join([*parts, wearing, where])
    elif wearing:
        sentence = " ".join([*parts, where]) + ", " + wearing
    else:
        sentence = " ".join([*parts, where])
    return word(_PREFIXES) + sentence
