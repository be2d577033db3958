"""Cartoon people: identities, their splits, and their rendering.

The artwork is Pablo Stanley's avataaars as packed in `python-avatars`; resvg turns it into pixels.
"""

import hashlib
import io
import re
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
SKIN_TONES = {"pale": "#FFE0C8", "tan": "#E3A66E", "brown": "#B0703E", "dark": "#6A4330"}
GLASSES = {
    "none": (pa.AccessoryType.NONE,),
    "prescription": (pa.AccessoryType.PRESCRIPTION_2, pa.AccessoryType.ROUND),
    "sunglasses": (pa.AccessoryType.WAYFARERS, pa.AccessoryType.SUNGLASSES),
}
# What hides the hair: worn by one person in eight, on every picture, as part of who they are.
HEADWEAR = {
    "none": (None, ("female", "male")),
    "hat": (pa.HatType.HAT, ("female", "male")),
    "hijab": (pa.HatType.HIJAB, ("female",)),
    "turban": (pa.HatType.TURBAN, ("male",)),
    "beanie": (pa.HatType.WINTER_HAT_3, ("female", "male")),
    "winter cap": (pa.HatType.WINTER_HAT_2, ("female", "male")),
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
# A common noun stands here several times. Silver hair may be called a grandparent's.
NOUNS = {
    "female": ("woman",) * 6 + ("lady", "girl", "mother", "sister", "person", "friend", "student"),
    "male": ("man",) * 6 + ("guy", "boy", "father", "brother", "person", "friend", "student"),
}
ELDERS = {"female": "grandmother", "male": "grandfather"}
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

# The networks that measure pictures learn from people of their own, the split "metric".
SPLITS = ("train", "validation", "held_out", "metric")
_SHARES = {"held_out": 0.06, "validation": 0.04, "metric": 0.20}


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
    headwear: str = "none"
    headwear_colour: str = "none"

    @property
    def looks(self) -> tuple[str, ...]:
        """What a picture shows of the person: all but the noun. Headwear covers the hair, and with it the
        hair's colour unless there is a beard."""
        covered = self.headwear != "none"
        hair = "covered" if covered else self.hair.name
        colour = "covered" if covered and self.beard is pa.FacialHairType.NONE else self.hair_colour
        face = (self.skin, self.glasses, self.frame.name, self.beard.name, self.nose.name)
        return (hair, colour, *face, self.headwear, self.headwear_colour)

    @property
    def split(self) -> str:
        """One of SPLITS, from the looks alone: two people who look alike are in the same split, so no
        held-out face is ever trained on."""
        bucket = int.from_bytes(hashlib.sha256("|".join(self.looks).encode()).digest()[:4]) / 2**32
        for split, share in _SHARES.items():
            if bucket < share:
                return split
            bucket -= share
        return "train"

    def attributes(self) -> dict[str, str | None]:
        """The names that judges and the image encoder's pre-training read; None = cannot be seen."""
        covered = self.headwear != "none"
        return {
            "hair_colour": None if covered else self.hair_colour,
            "skin": self.skin,
            "glasses": self.glasses,
            "hair": None if covered else self.hair.name.lower(),
            "beard": self.beard.name.lower(),
            "headwear": self.headwear,
            "headwear_colour": self.headwear_colour,
            "nose": self.nose.name.lower(),
        }


def attribute_classes() -> dict[str, tuple[str, ...]]:
    """Every attribute of Identity.attributes() with all its names."""
    return {
        "hair_colour": tuple(HAIR_COLOURS),
        "skin": tuple(SKIN_TONES),
        "glasses": tuple(GLASSES),
        "hair": tuple(h.name.lower() for h in LONG_HAIR + SHORT_HAIR),
        "beard": ("none", *(b.name.lower() for b in BEARDS)),
        "headwear": tuple(HEADWEAR),
        "headwear_colour": ("none", *CLOTHES_COLOURS),
        "nose": tuple(n.name.lower() for n in pa.NoseType),
    }


@dataclass(frozen=True)
class Look:
    """What changes: clothes, expression and the side it is seen from."""

    garment: pa.ClothingType
    clothes: str
    mouth: pa.MouthType
    eyes: pa.EyeType
    brows: pa.EyebrowType
    mirrored: bool = False


def choose(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def draw_identity(rng: np.random.Generator, split: str) -> Identity:
    """A random identity of one split."""
    while True:
        sex = choose(rng, ("female", "male"))
        glasses = choose(rng, tuple(GLASSES))
        hair_colour = choose(rng, tuple(HAIR_COLOURS))
        nouns = NOUNS[sex] + (ELDERS[sex],) * (4 if hair_colour == "silver" else 0)
        covered = rng.random() < 0.125
        kinds = [name for name, (_, worn_by) in HEADWEAR.items() if name != "none" and sex in worn_by]
        identity = Identity(
            sex=sex,
            noun=choose(rng, nouns),
            hair=choose(rng, LONG_HAIR if sex == "female" else SHORT_HAIR),
            hair_colour=hair_colour,
            skin=choose(rng, tuple(SKIN_TONES)),
            glasses=glasses,
            frame=choose(rng, GLASSES[glasses]),
            beard=choose(rng, BEARDS) if sex == "male" and rng.random() < 0.4 else pa.FacialHairType.NONE,
            nose=choose(rng, (pa.NoseType.DEFAULT, pa.NoseType.SMALL, pa.NoseType.WIDE)),
            headwear=choose(rng, kinds) if covered else "none",
            headwear_colour=choose(rng, tuple(CLOTHES_COLOURS)) if covered else "none",
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
        mirrored=bool(rng.random() < 0.5),
    )


# Clear lenses let light through but catch some: without it a dark frame on dark skin is lost.
_LENSES = "".join(
    f'<ellipse cx="{x}" cy="27" rx="21" ry="19" fill="#FFFFFF" fill-opacity="0.5" />' for x in (40, 102)
)
_ACCESSORY = re.compile(r'(<g id="[^"]*_Accessory"[^>]*>)')


def render(identity: Identity, look: Look, width: int) -> Image.Image:
    """The bust as RGBA, `width` pixels wide and 280/264 as high, transparent around the person.

    Mirrored where the look says so.
    """
    svg = _svg(identity, look)
    png = resvg_py.svg_to_bytes(svg_string=svg, width=width)
    bust = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    return bust.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if look.mirrored else bust


@lru_cache(maxsize=256)
def _svg(identity: Identity, look: Look) -> str:
    headwear, _ = HEADWEAR[identity.headwear]
    svg = pa.Avatar(
        style=pa.AvatarStyle.TRANSPARENT,
        top=headwear or identity.hair,
        hat_color=CLOTHES_COLOURS.get(identity.headwear_colour, "#000000"),
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
    return _ACCESSORY.sub(r"\1" + _LENSES, svg) if identity.glasses == "prescription" else svg
