"""One training picture with everything known about it.

A sample depends on (recipe, split, index) alone: the same three give the same bytes.
"""

import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from toolkit.data import people, props, scenes
from toolkit.data.captions import write_caption
from toolkit.data.people import Identity, Look, choose
from toolkit.data.scenes import Scene

IMAGE_SIZE = 128
REFERENCE_SIZE = 64


@dataclass(frozen=True)
class Recipe:
    """What a data set is rich in.

    The scene model's data is rich in scenes (details, props, wordings), the subject model's in
    identities (every sample a new one) and poor in scenes, as in the paper.
    """

    name: str
    people: tuple[float, ...]  # probability of 0, 1, 2, 3 people
    detail: float  # probability that something stands beside the person
    prop: float  # that the only person holds something
    clothes: float  # that the caption names the only person's clothes
    plain: float  # that the caption takes the first wording


SCENES = Recipe("scenes", people=(0.08, 0.80, 0.09, 0.03), detail=0.35, prop=0.3, clothes=0.55, plain=0.0)
SUBJECTS = Recipe("subjects", people=(0.0, 0.90, 0.08, 0.02), detail=0.08, prop=0.12, clothes=0.4, plain=0.7)
RECIPES = {recipe.name: recipe for recipe in (SCENES, SUBJECTS)}


@dataclass(frozen=True)
class Held:
    """A combination that only held-out prompts use."""

    place: str
    time: str
    prop: str | None = None
    clothes: str | None = None


# The sheet's five prompts ask for exactly these; no training or validation sample shows them.
HELD_OUT_SCENES = (
    Held("snow", "night", prop="book"),
    Held("beach", "sunset", clothes="red shirt"),
    Held("forest", "day", prop="cup"),
    Held("city", "night", clothes="yellow shirt"),
    Held("desert", "day", prop="balloon"),
)


@dataclass(frozen=True)
class Subject:
    identity: Identity
    look: Look
    reference: np.ndarray  # uint8 [64, 64, 3]


@dataclass(frozen=True)
class Sample:
    """image uint8 [128, 128, 3]; labels uint8 [128, 128]: 0 scene, k = subject k of `subjects`
    (left to right, as in the caption; what somebody holds counts as scene)."""

    image: np.ndarray
    labels: np.ndarray
    caption: str
    scene: Scene
    prop: str | None
    clothes: str | None
    subjects: list[Subject] = field(default_factory=list)

    def describe(self) -> dict:
        return {
            "caption": self.caption,
            "place": self.scene.place,
            "time": self.scene.time,
            "detail": self.scene.detail,
            "prop": self.prop,
            "clothes": self.clothes,
            "subjects": [s.identity.attributes() for s in self.subjects],
        }


def is_held_out(scene: Scene, prop: str | None, clothes: str | None) -> bool:
    """Whether a scene asks for a combination kept for held-out prompts (worn, named or not)."""
    return any(
        (held.place, held.time) == (scene.place, scene.time)
        and (held.prop is None or held.prop == prop)
        and (held.clothes is None or held.clothes == clothes)
        for held in HELD_OUT_SCENES
    )


def sample_rng(recipe: Recipe, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(recipe.name.encode()), people.SPLITS.index(split), index])


def make_sample(recipe: Recipe, split: str, index: int) -> Sample:
    """Draws sample `index` of a split."""
    rng = sample_rng(recipe, split, index)
    count = int(rng.choice(len(recipe.people), p=recipe.people))
    identities = [people.draw_identity(rng, split) for _ in range(count)]
    while True:
        scene = Scene(choose(rng, scenes.PLACES), choose(rng, scenes.TIMES))
        if rng.random() < recipe.detail:
            scene = Scene(scene.place, scene.time, choose(rng, scenes.DETAILS[scene.place]))
        prop = choose(rng, props.PROPS) if count == 1 and rng.random() < recipe.prop else None
        kind = choose(rng, ("shirt", "shirt", "shirt", "hoodie", "sweater"))
        looks = [people.draw_look(rng, people.GARMENTS[kind]) for _ in identities]
        clothes = f"{looks[0].clothes} {kind}" if looks else None
        if not is_held_out(scene, prop, clothes):
            break
    named = clothes if count == 1 and rng.random() < recipe.clothes else None
    caption = write_caption(
        rng, scene, [i.noun for i in identities], prop, named, plain=bool(rng.random() < recipe.plain)
    )
    canvas, labels = compose(rng, scene, identities, looks, prop)
    subjects = [Subject(i, look, draw_reference(rng, i)) for i, look in zip(identities, looks, strict=True)]
    return Sample(canvas, labels, caption, scene, prop, clothes, subjects)


def compose(
    rng: np.random.Generator, scene: Scene, identities: list[Identity], looks: list[Look], prop: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """The picture and its label map."""
    canvas = scenes.draw_scene(rng, scene, IMAGE_SIZE)
    labels = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    count = len(identities)
    # Widths leave a head of about half the avatar's width: glasses need some 40 pixels.
    low, high = {0: (0, 1), 1: (104, 122), 2: (78, 86), 3: (58, 64)}[count]
    for k, (identity, look) in enumerate(zip(identities, looks, strict=True)):
        width = int(rng.integers(low, high))
        if identity.noun in ("girl", "boy"):
            width = int(width * 0.93)
        bust = people.render(identity, look, width)
        middle = IMAGE_SIZE * (2 * k + 1) / (2 * count)
        spread = {1: 9, 2: 3, 3: 1}[count]
        x = int(middle - width / 2 + rng.integers(-spread, spread + 1))
        y = IMAGE_SIZE - bust.height + int(rng.integers(0, 5))
        canvas.paste(bust, (x, y), bust)
        alpha = Image.new("L", canvas.size)
        alpha.paste(bust.getchannel("A"), (x, y))
        labels[np.asarray(alpha) >= 128] = k + 1
        if prop:
            held = props.draw_prop(
                rng, prop, IMAGE_SIZE, x + width / 2, y + bust.height * 0.78, people.SKIN_TONES[identity.skin]
            )
            canvas.paste(held, (0, 0), held)
            labels[np.asarray(held.getchannel("A")) >= 128] = 0
    return np.asarray(canvas), labels


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
    y = round((size - bust.height) * rng.uniform(0, 0.5))
    canvas.paste(bust, (x, y), bust)
    return np.asarray(canvas)
