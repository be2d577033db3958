"""Things that a person holds, does or wears for one picture only, drawn around and over the bust.

All measures are in units of 1/128 of the picture's width for one person; smaller people get smaller things.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from toolkit.data.people import CLOTHES_COLOURS, choose

# Held things and what hands do: one at most.
ACTIONS = ("book", "cup", "flower", "balloon", "guitar", "microphone", "ice cream", "umbrella", "waving")
# Worn: one at most; a scarf has a colour of CLOTHES_COLOURS.
ACCESSORIES = ("scarf", "crown", "headphones")

_COVERS = ((196, 52, 48), (44, 92, 176), (54, 132, 80), (236, 160, 40))


@dataclass(frozen=True)
class Body:
    """Where a bust lies in the picture: its left top corner and width in pixels, its tilt, its skin ('#RRGGBB')."""

    x: float
    y: float
    width: float
    skin: str


class _Layer:
    """A transparent picture at twice the size, drawn in units with the origin at the chin's middle."""

    def __init__(self, size: int, body: Body) -> None:
        self.size, self.body = size, body
        self.image = Image.new("RGBA", (size * 2, size * 2))
        self.pen = ImageDraw.Draw(self.image)
        # an avatar of 264 units: the chin at (132, 171), a full-size one is 128 pixels wide
        self.unit = 2 * body.width / 128
        self.left = 2 * (body.x + body.width * 132 / 264)
        self.top = 2 * (body.y + body.width * 171 / 264)

    def at(self, points):
        return [(self.left + x * self.unit, self.top + y * self.unit) for x, y in points]

    def oval(self, x, y, rx, ry, fill):
        self.pen.ellipse(self.at([(x - rx, y - ry), (x + rx, y + ry)]), fill=fill)

    def box(self, x0, y0, x1, y1, fill):
        self.pen.rectangle(self.at([(x0, y0), (x1, y1)]), fill=fill)

    def shape(self, points, fill):
        self.pen.polygon(self.at(points), fill=fill)

    def stroke(self, points, fill, width):
        self.pen.line(self.at(points), fill=fill, width=max(1, round(width * self.unit)), joint="curve")

    def arc(self, x, y, rx, ry, start, end, fill, width):
        self.pen.arc(self.at([(x - rx, y - ry), (x + rx, y + ry)]), start, end, fill=fill, width=round(width * self.unit))

    def hand(self, x, y):
        self.oval(x, y, 5, 5, self.body.skin)

    def done(self) -> Image.Image:
        return self.image.resize((self.size, self.size), Image.Resampling.BOX)


def draw_behind(rng: np.random.Generator, action: str | None, size: int, body: Body) -> Image.Image | None:
    """RGBA of `size` squared that lies between scene and person, or None."""
    layer = _Layer(size, body)
    if action == "umbrella":
        colour = choose(rng, ((214, 44, 52), (40, 96, 200), (246, 196, 40)))
        top, half = -78, 60
        layer.pen.pieslice(layer.at([(-half, top), (half, top + 84)]), 180, 360, fill=colour)
        light = tuple(min(255, c + 50) for c in colour)
        layer.pen.pieslice(layer.at([(-half, top), (half, top + 84)]), 222, 258, fill=light)
        layer.pen.pieslice(layer.at([(-half, top), (half, top + 84)]), 285, 321, fill=light)
        layer.stroke([(34, top + 40), (34, 30)], (70, 60, 56), 3)
        return layer.done()
    if action == "balloon":
        side = choose(rng, (-1, 1))
        layer.stroke([(side * 46, -34), (side * 32, 34)], (240, 240, 240), 1.5)
        colour = choose(rng, ((226, 44, 52), (250, 200, 40), (50, 120, 220)))
        layer.oval(side * 46, -48, 13, 16, colour)
        layer.oval(side * 46 - 5, -54, 2.5, 4, (255, 255, 255))
        return layer.done()
    return None


def draw_before(rng: np.random.Generator, action: str | None, size: int, body: Body) -> Image.Image | None:
    """RGBA of `size` squared that lies over the person, or None."""
    layer = _Layer(size, body)
    if action == "book":
        layer.shape([(-24, 22), (0, 26), (24, 22), (24, 42), (0, 46), (-24, 42)], choose(rng, _COVERS))
        layer.shape([(-22, 19), (0, 24), (22, 19), (22, 25), (0, 30), (-22, 25)], (252, 250, 240))
        layer.stroke([(0, 26), (0, 46)], (40, 30, 30), 1.5)
        layer.hand(-24, 34)
        layer.hand(24, 34)
    elif action == "cup":
        x = choose(rng, (-16, 16))
        layer.arc(x + 9, 29, 6, 6, 0, 360, (250, 250, 250), 2.5)
        layer.box(x - 9, 19, x + 8, 38, (252, 252, 252))
        layer.box(x - 9, 26, x + 8, 31, choose(rng, _COVERS))
        layer.hand(x - 8, 32)
    elif action == "flower":
        x = choose(rng, (-24, 24))
        layer.stroke([(x, 10), (x, 40)], (46, 140, 64), 3)
        petals = choose(rng, ((236, 60, 110), (250, 210, 50), (170, 90, 220)))
        for k in range(6):
            layer.oval(x + 7 * np.cos(k * np.pi / 3), 4 + 7 * np.sin(k * np.pi / 3), 5, 5, petals)
        layer.oval(x, 4, 4, 4, (255, 236, 120))
        layer.hand(x, 32)
    elif action == "balloon":
        pass  # the hand is hidden behind the shoulder
    elif action == "guitar":
        wood = choose(rng, ((196, 116, 50), (150, 60, 40)))
        layer.stroke([(4, 34), (52, 8)], (84, 54, 36), 5)
        layer.box(48, 2, 57, 12, (60, 40, 28))
        layer.oval(-16, 40, 17, 14, wood)
        layer.oval(2, 33, 12, 10, wood)
        layer.oval(-8, 37, 5, 5, (50, 32, 24))
        layer.hand(34, 18)
        layer.hand(-16, 38)
    elif action == "microphone":
        x = choose(rng, (-15, 15))
        layer.stroke([(x, 8), (x * 1.2, 34)], (50, 50, 56), 5)
        layer.oval(x, 3, 7, 7, (120, 124, 132))
        layer.oval(x - 2, 1, 2.5, 2.5, (210, 214, 220))
        layer.hand(x * 1.15, 24)
    elif action == "ice cream":
        x = choose(rng, (-20, 20))
        layer.shape([(x - 8, 14), (x + 8, 14), (x, 40)], (220, 164, 92))
        layer.oval(x, 8, 10, 9, choose(rng, ((250, 170, 190), (252, 244, 214), (128, 84, 60))))
        layer.hand(x, 31)
    elif action == "umbrella":
        layer.hand(34, 28)
    elif action == "waving":
        side = choose(rng, (-1, 1))
        layer.stroke([(side * 44, 40), (side * 50, 2)], body.skin, 9)
        layer.oval(side * 50, -4, 7.5, 8, body.skin)
        for k in range(4):
            dx = side * 50 - 6 + 4 * k
            layer.stroke([(dx, -6), (dx + 1.2 * (k - 1.5), -17)], body.skin, 3.4)
    else:
        return None
    return layer.done()


def draw_worn(accessory: str | None, colour: str | None, size: int, body: Body) -> Image.Image | None:
    """RGBA of `size` squared of what the person wears, or None. `colour` (of CLOTHES_COLOURS) is a scarf's."""
    layer = _Layer(size, body)
    if accessory == "scarf":
        paint = CLOTHES_COLOURS[colour]
        layer.pen.rounded_rectangle(layer.at([(-19, 4), (19, 15)]), radius=5 * layer.unit, fill=paint)
        layer.shape([(5, 12), (17, 12), (20, 38), (8, 38)], paint)
        layer.stroke([(8, 34), (20, 34)], "#FFFFFF" if colour != "white" else "#B0B0B4", 2)
    elif accessory == "crown":
        gold = (250, 200, 48)
        layer.shape([(-22, -60), (-25, -82), (-12, -72), (0, -86), (12, -72), (25, -82), (22, -60)], gold)
        for x in (-12, 0, 12):
            layer.oval(x, -65, 2.4, 2.4, (214, 44, 60))
    elif accessory == "headphones":
        layer.arc(0, -28, 32, 36, 180, 360, (40, 42, 50), 5)
        for x in (-31, 31):
            layer.pen.rounded_rectangle(layer.at([(x - 6, -32), (x + 6, -10)]), radius=4 * layer.unit, fill=(222, 48, 56))
    else:
        return None
    return layer.done()
