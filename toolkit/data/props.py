"""Things in a person's hands, drawn over the bust's lower edge."""

import numpy as np
from PIL import Image, ImageDraw

from toolkit.data.people import choose

PROPS = ("book", "cup", "flower", "balloon")
_COVERS = ((196, 52, 48), (44, 92, 176), (54, 132, 80), (236, 160, 40))


def draw_prop(rng: np.random.Generator, prop: str, size: int, centre: float, top: float, skin: str) -> Image.Image:
    """RGBA of `size` squared. `centre` and `top` place the hands' object: the x of the person's
    middle and the y of the shoulders, in pixels; `skin` colours the hands ('#RRGGBB')."""
    unit = size * 2 / 128
    image = Image.new("RGBA", (size * 2, size * 2))
    pen = ImageDraw.Draw(image)
    x, y = centre * 2 / unit, top * 2 / unit

    def points(values):
        return [(a * unit, b * unit) for a, b in values]

    def hand(hx, hy):
        pen.ellipse(points([(hx - 4.5, hy - 4.5), (hx + 4.5, hy + 4.5)]), fill=skin)

    if prop == "book":
        pen.polygon(points([(x - 22, y + 2), (x, y + 6), (x + 22, y + 2), (x + 22, y + 20), (x, y + 24), (x - 22, y + 20)]),
                    fill=choose(rng, _COVERS))  # fmt: skip
        pen.polygon(points([(x - 20, y), (x, y + 4), (x + 20, y), (x + 20, y + 5), (x, y + 9), (x - 20, y + 5)]),
                    fill=(252, 250, 240))  # fmt: skip
        pen.line(points([(x, y + 5), (x, y + 24)]), fill=(40, 30, 30), width=round(1.5 * unit))
        hand(x - 22, y + 15)
        hand(x + 22, y + 15)
    elif prop == "cup":
        cx = x + choose(rng, (-14, 14))
        pen.ellipse(points([(cx + 3, y + 6), (cx + 13, y + 16)]), outline=(250, 250, 250), width=round(2.5 * unit))
        pen.rectangle(points([(cx - 8, y + 2), (cx + 7, y + 20)]), fill=(252, 252, 252))
        pen.rectangle(points([(cx - 8, y + 9), (cx + 7, y + 13)]), fill=choose(rng, _COVERS))
        hand(cx - 7, y + 14)
    elif prop == "flower":
        cx = x + choose(rng, (-20, 20))
        pen.line(points([(cx, y - 6), (cx, y + 20)]), fill=(46, 140, 64), width=round(2.5 * unit))
        petals = choose(rng, ((236, 60, 110), (250, 210, 50), (170, 90, 220)))
        for k in range(6):
            px, py = cx + 6 * np.cos(k * np.pi / 3), y - 10 + 6 * np.sin(k * np.pi / 3)
            pen.ellipse(points([(px - 4, py - 4), (px + 4, py + 4)]), fill=petals)
        pen.ellipse(points([(cx - 3.5, y - 13.5), (cx + 3.5, y - 6.5)]), fill=(255, 236, 120))
        hand(cx, y + 14)
    elif prop == "balloon":
        side = choose(rng, (-1, 1))
        bx, by = x + side * 46, y - 52
        pen.line(points([(bx, by + 15), (x + side * 30, y + 14)]), fill=(240, 240, 240), width=round(1.2 * unit))
        colour = choose(rng, ((226, 44, 52), (250, 200, 40), (50, 120, 220)))
        pen.ellipse(points([(bx - 12, by - 15), (bx + 12, by + 15)]), fill=colour)
        pen.ellipse(points([(bx - 7, by - 10), (bx - 3, by - 4)]), fill=(255, 255, 255))
        hand(x + side * 30, y + 14)
    else:
        raise ValueError(f"unknown prop {prop!r}")
    return image.resize((size, size), Image.Resampling.BOX)
