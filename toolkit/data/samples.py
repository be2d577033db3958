"""One training picture with everything known about it.

A sample depends on (recipe, split, index, seed) alone: the same four give the same bytes.
"""

import zlib
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from PIL import Image

from toolkit.data import people, props, scenes, styles
from toolkit.data.captions import Content, write_caption
from toolkit.data.held_out import is_held_out
from toolkit.data.people import Identity, Look, choose
from toolkit.data.scenes import Scene

IMAGE_SIZE = 128
REFERENCE_SIZE = 64
MOST_PEOPLE = 3  # in a picture
_SCENE_LABELS = (
    "place", "time", "detail", "weather", "wall", "people", "action", "accessory", "accessory_colour", "style",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What a data set is rich in; probabilities.

    The scene model's data is rich in scenes (places, weather, things, styles, wordings), the subject
    model's in identities (every sample a new one) and poor in scenes, as in the paper.
    """

    name: str
    people: tuple[float, ...]  # of 0, 1, 2, 3 people
    studio: float  # of a plain wall instead of a place
    weather: float
    detail: float  # that something stands beside the person
    action: float  # that somebody does or holds something
    accessory: float  # that a scarf, crown or headphones are worn
    style: float  # that the picture has one of styles.STYLES
    clothes: float  # that the caption names the clothes
    plain: float  # that the caption takes the first wording


SCENES = Recipe("scenes", (0.06, 0.74, 0.16, 0.04), 0.06, 0.22, 0.35, 0.36, 0.24, 0.16, 0.45, 0.0)
SUBJECTS = Recipe("subjects", (0.0, 0.58, 0.38, 0.04), 1.0, 0.0, 0.0, 0.03, 0.03, 0.02, 0.25, 0.9)
RECIPES = {recipe.name: recipe for recipe in (SCENES, SUBJECTS)}


@dataclass(frozen=True)
class Subject:
    identity: Identity
    look: Look
    reference: np.ndarray  # uint8 [64, 64, 3]


@dataclass(frozen=True)
class Sample:
    """image uint8 [128, 128, 3]; labels uint8 [128, 128]: 0 scene, k = subject k of `subjects`
    (left to right, as in the caption; what somebody holds or wears for this picture counts as scene)."""

    image: np.ndarray
    labels: np.ndarray
    caption: str
    content: Content
    subjects: list[Subject] = field(default_factory=list)

    def describe(self) -> dict:
        content = asdict(self.content)
        scene = content.pop("scene")
        return {
            "caption": self.caption,
            **scene,
            **content,
            "subjects": [s.identity.attributes() | {"noun": s.identity.noun} for s in self.subjects],
        }


def scene_labels(description: dict) -> dict[str, str]:
    """What a picture shows, of Sample.describe(): kind of label -> class, "none" for what is not there."""
    labels = {key: description[key] for key in _SCENE_LABELS}
    labels["clothes_colour"], labels["clothes"] = (description["clothes"] or "none none").split()
    nouns = [subject["noun"] for subject in description["subjects"]]
    labels |= {f"person_{k + 1}": nouns[k] if k < len(nouns) else None for k in range(MOST_PEOPLE)}
    return {kind: str(value or "none") for kind, value in labels.items()}


def sample_rng(recipe: Recipe, split: str, index: int, seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(recipe.name.encode()), people.SPLITS.index(split), index, seed])


def draw_scene_of(rng: np.random.Generator, recipe: Recipe) -> Scene:
    if rng.random() < recipe.studio:
        return Scene("studio", "day", wall=choose(rng, tuple(scenes.WALL_COLOURS)))
    place, time = choose(rng, scenes.PLACES), choose(rng, scenes.TIMES)
    detail = choose(rng, scenes.DETAILS[place]) if rng.random() < recipe.detail else None
    sheltered = place in scenes.SHELTERED
    weather = choose(rng, scenes.WEATHERS) if not sheltered and rng.random() < recipe.weather else None
    return Scene(place, time if place not in scenes.TIMELESS else "day", detail, weather)


def draw_content(rng: np.random.Generator, recipe: Recipe, count: int, shows: str | None = None) -> Content:
    """What a picture of `count` people shows; never a combination that is held out.

    shows: one of held_out.GROUPS, to draw until the picture belongs to that group and no other.
    """
    while True:
        action = accessory = colour = clothes = None
        if count and rng.random() < recipe.action * (1 if count == 1 else 0.3):
            action = choose(rng, props.ACTIONS) if count == 1 else "waving"
        if count and rng.random() < recipe.accessory:
            accessory = choose(rng, props.ACCESSORIES)
            colour = choose(rng, tuple(people.CLOTHES_COLOURS)) if accessory == "scarf" else None
        if count:
            kind = choose(rng, ("shirt", "shirt", "shirt", "hoodie", "sweater"))
            clothes = f"{choose(rng, tuple(people.CLOTHES_COLOURS))} {kind}"
        style = choose(rng, styles.STYLES) if rng.random() < recipe.style else None
        content = Content(draw_scene_of(rng, recipe), count, action, accessory, colour, clothes, style)
        if not is_held_out(content) and shows in (None, group_of(content)):
            return content


def group_of(content: Content) -> str | None:
    """The one of held_out.GROUPS that a picture belongs to; None if several."""
    found = [
        group
        for group, is_shown in (("accessory", content.accessory), ("style", content.style), ("action", content.action))
        if is_shown
    ]
    return (found or ["context"])[0] if len(found) < 2 else None


@dataclass(frozen=True)
class Script:
    """A sample before it is drawn: who is shown, in what, and the sentence."""

    identities: list[Identity]
    content: Content
    names_clothes: bool
    caption: str


def write_script(rng: np.random.Generator, recipe: Recipe, split: str) -> Script:
    count = int(rng.choice(len(recipe.people), p=recipe.people))
    identities = [people.draw_identity(rng, split) for _ in range(count)]
    content = draw_content(rng, recipe, count)
    names_clothes = bool(rng.random() < recipe.clothes)
    plain = bool(rng.random() < recipe.plain)
    caption = write_caption(rng, content, [i.noun for i in identities], names_clothes, plain)
    return Script(identities, content, names_clothes, caption)


def make_sample(recipe: Recipe, split: str, index: int, seed: int = 0) -> Sample:
    """Draws sample `index` of a split."""
    rng = sample_rng(recipe, split, index, seed)
    script = write_script(rng, recipe, split)
    identities, content, caption = script.identities, script.content, script.caption
    # Where the caption names the clothes, all wear them; else each as they like.
    looks = [draw_looks_for(rng, content, k == 0 or script.names_clothes) for k in range(len(identities))]
    canvas, labels = compose(rng, content, identities, looks)
    subjects = [Subject(i, look, draw_reference(rng, i)) for i, look in zip(identities, looks, strict=True)]
    return Sample(canvas, labels, caption, content, subjects)


def draw_looks_for(rng: np.random.Generator, content: Content, as_named: bool) -> Look:
    colour, kind = content.clothes.rsplit(" ", 1)
    if not as_named:
        return people.draw_look(rng, people.GARMENTS[choose(rng, tuple(people.GARMENTS))])
    return replace(people.draw_look(rng, people.GARMENTS[kind]), clothes=colour)


def compose(
    rng: np.random.Generator, content: Content, identities: list[Identity], looks: list[Look]
) -> tuple[np.ndarray, np.ndarray]:
    """The picture and its label map."""
    canvas = scenes.draw_scene(rng, content.scene, IMAGE_SIZE)
    labels = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    count = len(identities)
    # A head is two fifths of the avatar's width: eyes and glasses need as many pixels as there are.
    low, high = {0: (0, 1), 1: (112, 142), 2: (84, 98), 3: (62, 72)}[count]
    for k, (identity, look) in enumerate(zip(identities, looks, strict=True)):
        width = int(rng.integers(low, high))
        if identity.noun in ("girl", "boy"):
            width = int(width * 0.92)
        tilt = float(rng.uniform(-6, 6))
        bust = people.render(identity, look, width).rotate(tilt, Image.Resampling.BICUBIC)
        middle = IMAGE_SIZE * (2 * k + 1) / (2 * count)
        spread = {1: 9, 2: 3, 3: 1}[count]
        x = int(middle - width / 2 + rng.integers(-spread, spread + 1))
        # low enough to hide the tilted lower edge, high enough to keep the hair
        y = max(IMAGE_SIZE - bust.height + int(width * 0.08) + int(rng.integers(0, 5)), -int(0.04 * width))
        body = props.Body(x, y, width, people.SKIN_TONES[identity.skin])
        _paste(canvas, props.draw_behind(rng, content.action, IMAGE_SIZE, body))
        canvas.paste(bust, (x, y), bust)
        alpha = Image.new("L", canvas.size)
        alpha.paste(bust.getchannel("A"), (x, y))
        labels[np.asarray(alpha) >= 128] = k + 1
        for thing in (
            props.draw_worn(content.accessory, content.accessory_colour, IMAGE_SIZE, body),
            props.draw_before(rng, content.action, IMAGE_SIZE, body),
        ):
            if thing:
                _paste(canvas, thing)
                labels[np.asarray(thing.getchannel("A")) >= 128] = 0
    return styles.apply_style(np.asarray(canvas), content.style), labels


def _paste(canvas: Image.Image, layer: Image.Image | None) -> None:
    if layer:
        canvas.paste(layer, (0, 0), layer)


def draw_reference(rng: np.random.Generator, identity: Identity, size: int = REFERENCE_SIZE) -> np.ndarray:
    """Another picture of the same person: other clothes, expression and background."""
    look = people.draw_look(rng, people.REFERENCE_GARMENTS)
    if rng.random() < 0.6:
        colour = tuple(int(c) for c in rng.integers(40, 256, 3))
        canvas = Image.new("RGB", (size, size), colour)
    else:
        place = Scene(choose(rng, scenes.PLACES), choose(rng, scenes.TIMES))
        canvas = scenes.draw_scene(rng, place, size)
    width = int(size * rng.uniform(0.95, 1.3))
    bust = people.render(identity, look, width)
    x = (size - width) // 2 + int(rng.integers(-3, 4) * size / 64)
    # from the bust half way down to its own top edge on the picture's: the hair stays in
    y = round((size - bust.height) * rng.uniform(0, 0.5)) if bust.height > size else size - bust.height
    canvas.paste(bust, (x, y), bust)
    return np.asarray(canvas)
