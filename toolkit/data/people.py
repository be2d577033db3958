"""Cartoon people: identities, their splits, and their rendering.

The artwork is Pablo Stanley's avataaars as packed in `python-avatars`; resvg turns it into pixels.
"""

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import python_avatars as pa
import resvg_py
from PIL import Image

# Colours lie far apart on purpose: a judge must be able to tell them in a small picture.
HAIR_COLOURS = {
    "black": "#1E1A1C",
    "brown": "#7A4420",
    "blonde": "#EBC44C",
    "ginger": "#D2460E",
    "silver": "#D9DADE",
    "pink": "#F274B4",
    "blue": "#3A6EDC",
}
SKIN_TONES = {"pale": "#FFE0C8", "tan": "#E3A66E", "brown": "#AA6A3A", "dark": "#5C3A28"}
GLASSES = {
    "none": (pa.AccessoryType.NONE,),
    "prescription": (pa.AccessoryType.PRESCRIPTION_2, pa.AccessoryType.ROUND),
    "sunglasses": (pa.AccessoryType.WAYFARERS, pa.AccessoryType.SUNGLASSES),
}
CLOTHES_COLOURS = {
    "red": "#D8302F",
    "orange": "#F28A1E",
    "yellow": "#F4D420",
    "green": "#2E9E4A",
    "blue": "#2F66D8",
    "purple": "#7A3FB4",
    "white": "#F4F4F4",
    "black": "#28282C",
}
_H = pa.HairType
LONG_HAIR = (
    _H.BIG_HAIR, _H.BOB, _H.BUN, _H.CURLY, _H.CURVY, _H.FRO, _H.LONG_NOT_TOO_LONG, _H.MIA_WALLACE,
    _H.STRAIGHT_1, _H.STRAIGHT_STRAND, _H.LOOSE_HAIR, _H.CURLY_2, _H.DREADS, _H.TWIST_LONG_HAIR,
)  # fmt: skip
SHORT_HAIR = (
    _H.CAESAR, _H.CAESAR_SIDE_PART, _H.SHORT_CURLY, _H.SHORT_FLAT, _H.SHORT_ROUND, _H.SHORT_WAVED,
    _H.SHAGGY, _H.QUIFF, _H.POMPADOUR, _H.ELVIS, _H.SHORT_DREADS_1, _H.SHORT_DREADS_2, _H.MOWGLI,
    _H.PIXIE,
)  # fmt: skip
BEARDS = (
    pa.FacialHairType.BEARD_LIGHT,
    pa.FacialHairType.BEARD_MEDIUM,
    pa.FacialHairType.BEARD_MAGESTIC,
    pa.FacialHairType.MOUSTACHE_MAGNUM,
)
NOUNS = {
    "female": ("woman", "woman", "woman", "lady", "girl", "person"),
    "male": ("man", "man", "man", "guy", "boy", "person"),
}
_C = pa.ClothingType
GARMENTS = {
    "shirt": (_C.SHIRT_CREW_NECK, _C.SHIRT_V_NECK, _C.SHIRT_SCOOP_NECK),
    "hoodie": (_C.HOODIE,),
    "sweater": (_C.COLLAR_SWEATER,),
}
# Seen on references only, so that the subject's clothes there are no rule for the picture.
REFERENCE_GARMENTS = tuple(g for kinds in GARMENTS.values() for g in kinds) + (_C.BLAZER_SHIRT, _C.OVERALL)
MOUTHS = (
    pa.MouthType.SMILE, pa.MouthType.DEFAULT, pa.MouthType.SERIOUS, pa.MouthType.TWINKLE,
    pa.MouthType.BIG_SMILE, pa.MouthType.SAD,
)  # fmt: skip
EYES = (pa.EyeType.DEFAULT, pa.EyeType.DEFAULT, pa.EyeType.HAPPY, pa.EyeType.SIDE, pa.EyeType.SURPRISED)
BROWS = (
    pa.EyebrowType.DEFAULT,
    pa.EyebrowType.DEFAULT_NATURAL,
    pa.EyebrowType.RAISED_EXCITED,
    pa.EyebrowType.FLAT_NATURAL,
)

SPLITS = ("train", "validation", "held_out")


@dataclass(frozen=True)
class Identity:
    """What stays the same of a person from picture to picture."""

    sex: str
    noun: str
    hair: pa.HairType
    hair_colour: str
    skin: str
    glasses: str
    frame: pa.AccessoryType
    beard: pa.FacialHairType
    nose: pa.NoseType

    @property
    def split(self) -> str:
        """Train, validation or held_out, from the looks alone: 90, 4 and 6 %.

        Two people who look alike are in the same split, so no held-out face is ever trained on.
        """
        looks = (self.hair, self.hair_colour, self.skin, self.glasses, self.frame, self.beard, self.nose)
        text = "|".join(x if isinstance(x, str) and not hasattr(x, "name") else x.name for x in looks)
        bucket = hashlib.sha256(text.encode()).digest()[0] / 256
        return "held_out" if bucket < 0.06 else "validation" if bucket < 0.10 else "train"

    def attributes(self) -> dict[str, str]:
        """The names that judges and the image encoder's pre-training read."""
        return {
            "hair_colour": self.hair_colour,
            "skin": self.skin,
            "glasses": self.glasses,
            "hair": self.hair.name.lower(),
            "beard": self.beard.name.lower(),
        }


@dataclass(frozen=True)
class Look:
    """What changes: clothes and expression."""

    garment: pa.ClothingType
    clothes: str
    mouth: pa.MouthType
    eyes: pa.EyeType
    brows: pa.EyebrowType


def choose(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def draw_identity(rng: np.random.Generator, split: str) -> Identity:
    """A random identity of one split."""
    while True:
        sex = choose(rng, ("female", "male"))
        glasses = choose(rng, tuple(GLASSES))
        identity = Identity(
            sex=sex,
            noun=choose(rng, NOUNS[sex]),
            hair=choose(rng, LONG_HAIR if sex == "female" else SHORT_HAIR),
            hair_colour=choose(rng, tuple(HAIR_COLOURS)),
            skin=choose(rng, tuple(SKIN_TONES)),
            glasses=glasses,
            frame=choose(rng, GLASSES[glasses]),
            beard=choose(rng, BEARDS) if sex == "male" and rng.random() < 0.4 else pa.FacialHairType.NONE,
            nose=choose(rng, (pa.NoseType.DEFAULT, pa.NoseType.SMALL, pa.NoseType.WIDE)),
        )
        if identity.noun == "boy" and identity.beard is not pa.FacialHairType.NONE:
            continue
        if identity.split == split:
            return identity


def draw_look(rng: np.random.Generator, garments: tuple[pa.ClothingType, ...]) -> Look:
    return Look(
        garment=choose(rng, garments),
        clothes=choose(rng, tuple(CLOTHES_COLOURS)),
        mouth=choose(rng, MOUTHS),
        eyes=choose(rng, EYES),
        brows=choose(rng, BROWS),
    )


def render(identity: Identity, look: Look, width: int) -> Image.Image:
    """The bust as RGBA, `width` pixels wide and 280/264 as high, transparent around the person."""
    svg = _svg(identity, look)
    png = resvg_py.svg_to_bytes(svg_string=svg, width=width)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


@lru_cache(maxsize=256)
def _svg(identity: Identity, look: Look) -> str:
    return pa.Avatar(
        style=pa.AvatarStyle.TRANSPARENT,
        top=identity.hair,
        hair_color=HAIR_COLOURS[identity.hair_colour],
        facial_hair=identity.beard,
        facial_hair_color=HAIR_COLOURS[identity.hair_colour],
        skin_color=SKIN_TONES[identity.skin],
        accessory=identity.frame,
        nose=identity.nose,
        eyebrows=look.brows,
        eyes=look.eyes,
        mouth=look.mouth,
        clothing=look.garment,
        clothing_color=CLOTHES_COLOURS[look.clothes],
    ).render()
