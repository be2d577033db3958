"""Writes the sample faces: held-out identities, drawn by the generator at 512 pixels.

The first identity of each name's seed that the generator draws is taken; none was looked at first.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit.data.people import Identity, draw_identity
from toolkit.data.samples import draw_reference

SIZE = 512
# name -> (seed, sex, the noun to use in a prompt)
NAMES = {
    "alice": (101, "female", "woman"),
    "bob": (102, "male", "man"),
    "carol": (103, "female", "woman"),
    "dave": (104, "male", "man"),
}


def identity_of(name: str) -> tuple[Identity, np.random.Generator]:
    """The held-out identity behind a name, and the generator its picture goes on with."""
    seed, sex, noun = NAMES[name]
    rng = np.random.default_rng([seed])
    while True:
        identity = draw_identity(rng, "held_out")
        if identity.sex == sex and identity.noun == noun:
            return identity, rng


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("examples"))


def run(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in NAMES:
        identity, rng = identity_of(name)
        Image.fromarray(draw_reference(rng, identity, SIZE)).save(args.out / f"{name}.png", optimize=True)
        rows.append(f"| `{name}.png` | {identity.noun} | {looks_of(identity)} |")
    (args.out / "README.md").write_text(_README.format(rows="\n".join(rows)), encoding="utf-8")


def looks_of(identity: Identity) -> str:
    """'black hat, pale skin, prescription glasses'."""
    covered = identity.headwear != "none"
    top = f"{identity.headwear_colour} {identity.headwear}" if covered else f"{identity.hair_colour} hair"
    glasses = {"none": "no glasses", "prescription": "prescription glasses"}.get(identity.glasses, identity.glasses)
    return f"{top}, {identity.skin} skin, {glasses}"


_README = """# Sample faces

Generated cartoon people, no real ones: drawn by `python -m toolkit examples` from parts of
`python-avatars` (code MIT; artwork: Avataaars by Pablo Stanley, free for personal and commercial
use). The training data holds none of them.

| file | noun | looks |
|---|---|---|
{rows}

Use them as reference images, with `<|image|>` after the noun of the person:
`"a woman <|image|> in the snow at night"` with `alice.png`.
"""
