"""Sentences for pictures. `<|image|>` follows the noun of every person."""

from dataclasses import dataclass

import numpy as np

from toolkit.data import people
from toolkit.data.people import choose
from toolkit.data.scenes import DETAILS, TIMELESS, WALL_COLOURS, Scene
from toolkit.models.tokenizer import MARKER

# The first wording of each is the plain one.
_PREFIXES = ("", "", "", "a photo of", "a picture of", "an image of", "a portrait of")
_STYLES = {
    "black and white": ("a black and white photo of", "a black and white picture of"),
    "sepia": ("a sepia photo of", "an old sepia photo of", "a vintage sepia picture of"),
    "pastel": ("a pastel drawing of", "a pastel picture of"),
    "blueprint": ("a blueprint of", "a blueprint drawing of"),
}
_PLACES = {
    "beach": ("at the beach", "at the beach", "on the beach", "by the sea", "on a sandy beach"),
    "snow": ("in the snow", "in the snow", "in a snowy landscape", "in winter", "on a snowy hill"),
    "forest": ("in the forest", "in the forest", "in the woods", "in a green forest", "among the trees"),
    "city": ("in the city", "in the city", "on a city street", "in front of skyscrapers", "in a big city"),
    "desert": ("in the desert", "in the desert", "among sand dunes", "in a sandy desert"),
    "room": ("in a room", "in a room", "at home", "in the living room", "indoors"),
    "moon": ("on the moon", "on the moon", "in space"),
    "mountains": ("in the mountains", "in the mountains", "in front of mountains", "in the alps"),
    "meadow": ("in a meadow", "in a meadow", "in a field of flowers", "on a flower meadow"),
    "underwater": ("underwater", "underwater", "under the sea", "at the bottom of the sea"),
    "studio": ("in front of a {} wall", "in front of a {} wall", "before a {} background"),
}
_TIMES = {
    "day": ("", "", "", "during the day", "in daylight", "on a sunny day"),
    "night": ("at night", "at night", "at night", "by night", "under the stars"),
    "sunset": ("at sunset", "at sunset", "at sunset", "in the evening", "at dusk"),
}
_WEATHERS = {
    "rain": ("in the rain", "in the rain", "on a rainy day", "while it rains"),
    "fog": ("in the fog", "in the fog", "on a foggy day", "in thick fog"),
    "snowfall": ("in falling snow", "in falling snow", "while it snows", "during snowfall"),
}
_ACTIONS = {
    "book": ("reading", "reading", "reading a book", "with a book"),
    "cup": ("holding a cup", "holding a cup", "with a cup of coffee", "drinking coffee"),
    "flower": ("holding a flower", "holding a flower", "with a flower"),
    "balloon": ("with a balloon", "with a balloon", "holding a balloon"),
    "guitar": ("playing the guitar", "playing the guitar", "playing a guitar", "with a guitar"),
    "microphone": ("singing", "singing", "singing into a microphone", "with a microphone"),
    "ice cream": ("eating ice cream", "eating ice cream", "eating an ice cream", "with an ice cream"),
    "umbrella": ("holding an umbrella", "holding an umbrella", "under an umbrella", "with an umbrella"),
    "waving": ("waving", "waving", "waving hello", "waving a hand"),
}
_ACCESSORIES = {"scarf": "a {} scarf", "crown": "a crown", "headphones": "headphones"}
_WEARING = ("wearing", "wearing", "in", "dressed in")


@dataclass(frozen=True)
class Content:
    """What a picture shows beside who is in it.

    action: one of props.ACTIONS, or None; accessory: one of props.ACCESSORIES, or None, and its
    colour where it has one; clothes: colour and garment ('red shirt') that the first person wears,
    or None without people; style: one of styles.STYLES, or None.
    """

    scene: Scene
    people: int = 1
    action: str | None = None
    accessory: str | None = None
    accessory_colour: str | None = None
    clothes: str | None = None
    style: str | None = None


def article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _filled(phrase: str, colour: str | None) -> str:
    """'a {} wall' with its colour and the article that goes with it."""
    return phrase.replace("a {}", article(colour)) if "a {}" in phrase else phrase


def where(rng: np.random.Generator, scene: Scene, plain: bool = False) -> str:
    """'in the snow at night with a cabin'."""

    def word(options):
        return options[0] if plain else choose(rng, options)

    place = _filled(word(_PLACES[scene.place]), scene.wall)
    timeless = scene.place in TIMELESS
    time = "" if timeless else word(_TIMES[scene.time])
    if scene.weather and time in ("in daylight", "on a sunny day", "under the stars"):
        time = ""
    weather = word(_WEATHERS[scene.weather]) if scene.weather else ""
    text = " ".join(part for part in (place, time, weather) if part)
    if scene.detail:
        text += f" with {article(scene.detail)}" if rng.random() < 0.7 else f" next to {article(scene.detail)}"
    return text


def write_caption(
    rng: np.random.Generator, content: Content, nouns: list[str], name_clothes: bool = False, plain: bool = False
) -> str:
    """One sentence.

    nouns: of the people from left to right; name_clothes: say what the people wear; plain: first
    wording of everything, as most of the subject model's data has it.
    """

    def word(options):
        return options[0] if plain else choose(rng, options)

    place = where(rng, content.scene, plain)
    prefix = word(_STYLES[content.style]) if content.style else word(_PREFIXES)
    if not nouns:
        return f"{prefix or word(('', 'a view', 'a scene'))} {place}".strip()
    named = [f"{article(noun)} {MARKER}" if rng.random() < 0.85 else f"the {noun} {MARKER}" for noun in nouns]
    who = named[0] if len(named) == 1 else ", ".join(named[:-1]) + " and " + named[-1]
    together = "" if len(nouns) == 1 else "both " if len(nouns) == 2 else "all "
    parts = [who]
    if content.action:
        parts.append(together + word(_ACTIONS[content.action]))
    worn = [article(content.clothes)] if name_clothes and content.clothes else []
    if content.accessory:
        worn.append(_filled(_ACCESSORIES[content.accessory], content.accessory_colour))
    wearing = ""
    if worn:
        verb = "wearing" if content.accessory and len(worn) == 1 and plain else word(_WEARING)
        if content.accessory and len(worn) == 1 and verb != "wearing":
            verb = "with"
        wearing = f"{together}{verb} {' and '.join(worn)}"
    if wearing and rng.random() < 0.5:
        sentence = " ".join([*parts, wearing, place])
    elif wearing:
        sentence = " ".join([*parts, place]) + ", " + wearing
    else:
        sentence = " ".join([*parts, place])
    return f"{prefix} {sentence}".strip()


def person_nouns() -> list[str]:
    """Every noun that a marker follows in some caption."""
    nouns = [noun for sex in people.NOUNS for noun in (*people.NOUNS[sex], people.ELDERS[sex])]
    return list(dict.fromkeys(nouns))


def vocabulary() -> dict[str, list[str]]:
    """Group → phrases that captions use, for users of the family; what is not here says nothing."""

    def phrases(table: dict[str, tuple[str, ...]]) -> list[str]:
        return list(dict.fromkeys(p for options in table.values() for p in options if p))

    details = list(dict.fromkeys(f"with {article(d)}" for options in DETAILS.values() for d in options))
    walls = [_filled(p, colour) for colour in WALL_COLOURS for p in dict.fromkeys(_PLACES["studio"])]
    garments = [article(f"{colour} {kind}") for kind in people.GARMENTS for colour in people.CLOTHES_COLOURS]
    scarves = [article(f"{colour} scarf") for colour in people.CLOTHES_COLOURS]
    return {
        "people": person_nouns(),
        "places": [p for p in phrases(_PLACES) if "{}" not in p] + walls,
        "times": phrases(_TIMES),
        "weather": phrases(_WEATHERS),
        "things beside": details + ["next to"],
        "actions": phrases(_ACTIONS),
        "accessories": scarves + [f"wearing {_ACCESSORIES[a]}" for a in ("crown", "headphones")],
        "clothes": garments + list(dict.fromkeys(_WEARING)),
        "styles": phrases(_STYLES) + [p for p in dict.fromkeys(_PREFIXES) if p] + ["a view", "a scene"],
        "other words": sorted({"a", "an", "the", "and", "with", "both", "all", "in", "at", "on"}),
    }
