"""True and false sentences for a picture whose content is known, from the captions' combinatorics.

The nouns are drawn at random, for the true sentence too: the text tower then learns nothing of who
is shown, and a picture that keeps its subject scores no better for it in prompt consistency.
"""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np

from toolkit.data import people, props, scenes, styles
from toolkit.data.captions import Content, person_nouns, write_caption
from toolkit.data.held_out import is_held_out
from toolkit.data.people import choose
from toolkit.data.scenes import Scene

_MOST = 3  # people in a picture
_TRIES = 200  # of a change until it is one that may be made
_NOUNS = person_nouns()


class Unalterable(ValueError):
    """Nothing of that kind may be changed in a picture's caption."""


def content_of(sample: dict) -> Content:
    """What a line of a data set's samples.jsonl shows."""
    scene = Scene(**{f.name: sample[f.name] for f in fields(Scene)})
    return Content(scene, **{f.name: sample[f.name] for f in fields(Content) if f.name != "scene"})


def reword(rng: np.random.Generator, sample: dict, kind: str | None = None) -> tuple[str, str]:
    """A new wording of a sample's caption, and the same sentence with one thing that is not so.

    kind: of alterations(), what is not so; None: anything. Raises Unalterable where every such change shows
    what a held-out sentence asks for.
    """
    content = content_of(sample)
    nouns = [choose(rng, _NOUNS) for _ in range(_MOST)]
    # In pictures of several people all wear what the caption says only where it says it.
    nameable = content.people == 1 or bool(content.clothes) and content.clothes in sample["caption"]
    changes = alterations(content)
    if not nameable:
        changes.pop("clothes", None)

    def write(shown: Content, seed: int, name_clothes: bool) -> str:
        return write_caption(np.random.default_rng(seed), shown, nouns[: shown.people], name_clothes)

    for _ in range(_TRIES):
        seed, named = int(rng.integers(2**62)), bool(nameable and (kind == "clothes" or rng.random() < 0.5))
        altered = changes[kind or choose(rng, tuple(changes))](rng)
        if is_held_out(altered):
            continue  # no picture of it is ever seen: it would be learnt as always false
        true, false = write(content, seed, named), write(altered, seed, named)
        if true != false:
            return true, false
    raise Unalterable(f"no {kind or 'thing'} of {sample['caption']!r} can be changed")


def alterations(content: Content) -> dict[str, Callable[[np.random.Generator], Content]]:
    """What may be changed, added or left out of a content, each with a function that does it."""
    scene = content.scene
    colours = tuple(people.CLOTHES_COLOURS)

    def of_scene(**changes) -> Content:
        return replace(content, scene=replace(scene, **changes))

    def place(rng: np.random.Generator) -> Content:
        new = _other(rng, scene.place, scenes.PLACES)
        return of_scene(
            place=new,
            time=scene.time if new not in scenes.TIMELESS else "day",
            detail=choose(rng, scenes.DETAILS[new]) if scene.detail else None,
            weather=scene.weather if new not in scenes.SHELTERED else None,
            wall=None,
        )

    def accessory(rng: np.random.Generator) -> Content:
        if content.accessory == "scarf" and rng.random() < 0.5:
            return replace(content, accessory_colour=_other(rng, content.accessory_colour, colours))
        new = _other(rng, content.accessory, (None, *props.ACCESSORIES))
        return replace(content, accessory=new, accessory_colour=choose(rng, colours) if new == "scarf" else None)

    def clothes(rng: np.random.Generator) -> Content:
        colour, garment = content.clothes.rsplit(" ", 1)
        if rng.random() < 0.7:
            return replace(content, clothes=f"{_other(rng, colour, colours)} {garment}")
        return replace(content, clothes=f"{colour} {_other(rng, garment, tuple(people.GARMENTS))}")

    can = {"place": place, "style": lambda rng: replace(content, style=_other(rng, content.style, (None, *styles.STYLES)))}
    if scene.place == "studio":
        can["wall"] = lambda rng: of_scene(wall=_other(rng, scene.wall, tuple(scenes.WALL_COLOURS)))
    if scene.place not in scenes.TIMELESS:
        can["time"] = lambda rng: of_scene(time=_other(rng, scene.time, scenes.TIMES))
    if scene.place not in scenes.SHELTERED:
        can["weather"] = lambda rng: of_scene(weather=_other(rng, scene.weather, (None, *scenes.WEATHERS)))
    if scenes.DETAILS[scene.place]:
        can["detail"] = lambda rng: of_scene(detail=_other(rng, scene.detail, (None, *scenes.DETAILS[scene.place])))
    if content.people:
        actions = (None, *props.ACTIONS) if content.people == 1 else (None, "waving")
        can["action"] = lambda rng: replace(content, action=_other(rng, content.action, actions))
        can["people"] = lambda rng: replace(content, people=_other(rng, content.people, tuple(range(1, _MOST + 1))))
        can["accessory"], can["clothes"] = accessory, clothes
    return can


def _other(rng: np.random.Generator, current, options):
    return choose(rng, tuple(o for o in options if o != current))

