"""Places at times of day, drawn with Pillow at twice the size and shrunk once."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from toolkit.data.people import choose

PLACES = ("beach", "snow", "forest", "city", "desert", "room", "moon", "mountains", "meadow", "underwater")
TIMES = ("day", "night", "sunset")
WEATHERS = ("rain", "fog", "snowfall")
# Places without hours, and those that no weather reaches. "studio" is a plain wall: all of the
# subject model's pictures, few of the scene model's.
TIMELESS = ("moon", "underwater", "studio")
SHELTERED = ("room", "moon", "underwater", "studio")
# One thing that may stand beside the person, named in the caption when it is there.
DETAILS = {
    "beach": ("palm tree", "boat", "umbrella"),
    "snow": ("snowman", "fir tree", "cabin"),
    "forest": ("tent", "mushroom", "campfire"),
    "city": ("car", "tower", "street lamp"),
    "desert": ("cactus", "pyramid", "tent"),
    "room": ("lamp", "plant", "bookshelf"),
    "moon": ("rocket", "flag", "planet"),
    "mountains": ("cabin", "fir tree", "goat"),
    "meadow": ("windmill", "cow", "apple tree"),
    "underwater": ("fish", "submarine", "coral"),
    "studio": (),
}
WALL_COLOURS = {
    "red": (214, 84, 78), "orange": (240, 160, 84), "yellow": (244, 218, 110), "green": (120, 184, 120),
    "blue": (104, 156, 226), "purple": (162, 116, 204), "white": (238, 238, 234), "grey": (140, 142, 148),
}  # fmt: skip

_SKY = {
    "day": ((96, 176, 240), (206, 234, 252)),
    "sunset": ((236, 96, 80), (255, 202, 112)),
    "night": ((12, 16, 52), (44, 52, 108)),
}
# How the light of the hour colours ground and things.
_LIGHT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.80, 0.68), "night": (0.42, 0.46, 0.68)}


@dataclass(frozen=True)
class Scene:
    """A place (of PLACES, or "studio"), a time (of TIMES), what stands beside the person, the weather
    (of WEATHERS) and the colour of a studio's wall, or None."""

    place: str
    time: str
    detail: str | None = None
    weather: str | None = None
    wall: str | None = None


def draw_scene(rng: np.random.Generator, scene: Scene, size: int) -> Image.Image:
    """An RGB picture of the scene, `size` pixels square; small things vary with `rng`."""
    artist = _Artist(rng, scene, 2 * size)
    getattr(artist, scene.place)()
    if scene.detail:
        artist.detail(scene.detail)
    if scene.weather:
        getattr(artist, scene.weather)()
    return artist.image.resize((size, size), Image.Resampling.BOX)


class _Artist:
    """Draws in units of 1/128 of the picture's width."""

    def __init__(self, rng: np.random.Generator, scene: Scene, pixels: int) -> None:
        self.rng, self.scene, self.pixels = rng, scene, pixels
        self.unit = pixels / 128
        self.light = _LIGHT[scene.time]
        self.image = Image.new("RGB", (pixels, pixels))
        self.pen = ImageDraw.Draw(self.image)

    # -- drawing in units ---------------------------------------------------------------------

    def lit(self, colour: tuple[int, int, int]) -> tuple[int, int, int]:
        return tuple(int(c * k) for c, k in zip(colour, self.light, strict=True))

    def scale(self, points):
        return [(x * self.unit, y * self.unit) for x, y in points]

    def box(self, x0, y0, x1, y1, colour):
        self.pen.rectangle(self.scale([(x0, y0), (x1, y1)]), fill=colour)

    def oval(self, x, y, rx, ry, colour):
        self.pen.ellipse(self.scale([(x - rx, y - ry), (x + rx, y + ry)]), fill=colour)

    def shape(self, points, colour):
        self.pen.polygon(self.scale(points), fill=colour)

    def stroke(self, points, colour, width):
        self.pen.line(self.scale(points), fill=colour, width=max(1, round(width * self.unit)), joint="curve")

    def gradient(self, top, bottom, y0=0, y1=128):
        rows = range(int(y0 * self.unit), int(y1 * self.unit))
        for row in rows:
            k = (row - rows.start) / max(1, len(rows) - 1)
            colour = tuple(int(a + (b - a) * k) for a, b in zip(top, bottom, strict=True))
            self.pen.line([(0, row), (self.pixels, row)], fill=colour)

    def between(self, low, high) -> float:
        return float(self.rng.uniform(low, high))

    def side(self) -> float:
        """x of something at the left or right edge, clear of a person in the middle."""
        return self.between(10, 22) if self.rng.random() < 0.5 else self.between(106, 118)

    # -- what several places share --------------------------------------------------------------

    def sky(self, horizon: float):
        self.gradient(*_SKY[self.scene.time], 0, horizon)
        x = self.between(12, 116)
        if self.scene.time == "night":
            for _ in range(28):
                r = self.between(0.4, 0.9)
                self.oval(self.between(0, 128), self.between(0, horizon), r, r, (250, 250, 224))
            y = self.between(10, 22)
            self.oval(x, y, 7, 7, (248, 244, 208))
            self.oval(x + 3, y - 2, 6, 6, _SKY["night"][0])
        elif self.scene.time == "sunset":
            self.oval(x, horizon - self.between(0, 8), 13, 13, (255, 240, 150))
        else:
            self.oval(x, self.between(10, 20), 8, 8, (255, 232, 84))
            for _ in range(int(self.rng.integers(1, 4))):
                x, y = self.between(8, 120), self.between(8, 34)
                for dx, r in ((-7, 4), (0, 6), (7, 4)):
                    self.oval(x + dx, y, r + 2, r, (255, 255, 255))

    def hills(self, y, height, colour, waves):
        phase = self.between(0, 6.3)
        xs = np.linspace(0, 128, 33)
        ys = y - height * (0.5 + 0.5 * np.sin(xs / 128 * waves * 2 * np.pi + phase))
        self.shape([(0, 128), *zip(xs.tolist(), ys.tolist(), strict=True), (128, 128)], colour)

    def fir(self, x, y, height, leaves, snow=None):
        self.box(x - height * 0.05, y - height * 0.15, x + height * 0.05, y, self.lit((96, 62, 36)))
        for i in range(3):
            top, half = y - height + i * height * 0.24, height * (0.17 + 0.07 * i)
            self.shape([(x, top), (x - half, top + height * 0.4), (x + half, top + height * 0.4)], leaves)
            if snow:
                self.shape([(x, top), (x - half * 0.4, top + height * 0.16), (x + half * 0.4, top + height * 0.16)], snow)

    # -- places ---------------------------------------------------------------------------------

    def beach(self):
        horizon = self.between(50, 60)
        self.sky(horizon)
        sea = {"day": (30, 130, 206), "sunset": (150, 84, 130), "night": (16, 40, 92)}[self.scene.time]
        shore = horizon + self.between(20, 28)
        self.gradient(sea, tuple(min(255, c + 46) for c in sea), horizon, shore + 6)
        foam = self.lit((250, 250, 250))
        for _ in range(6):
            x, y = self.between(0, 118), self.between(horizon + 4, shore - 3)
            self.stroke([(x, y), (x + 10, y)], foam, 1)
        self.hills(shore + 4, 5, foam, 1.0)
        self.hills(shore + 7, 5, self.lit((240, 214, 146)), 1.0)

    def snow(self):
        horizon = self.between(62, 74)
        self.sky(horizon + 6)
        white = self.lit((244, 248, 255))
        self.hills(horizon, 14, self.lit((206, 220, 238)), 1.5)
        for _ in range(int(self.rng.integers(3, 6))):
            self.fir(self.between(0, 128), horizon + self.between(2, 8), self.between(24, 40), self.lit((36, 96, 74)), white)
        self.hills(horizon + 14, 8, white, 0.8)
        for _ in range(40):
            r = self.between(0.7, 1.4)
            self.oval(self.between(0, 128), self.between(0, 128), r, r, (255, 255, 255))

    def forest(self):
        ground = self.between(78, 88)
        self.sky(ground)
        for depth, colour in ((0, (92, 150, 88)), (1, (60, 122, 62)), (2, (34, 92, 44))):
            for i in range(7 - depth):
                x = (i + self.between(0.1, 0.9)) * 128 / (7 - depth)
                y, h = ground - 8 + 6 * depth, self.between(44, 56) + 8 * depth
                if self.rng.random() < 0.5:
                    self.fir(x, y + 4, h, self.lit(colour))
                else:
                    self.box(x - 2, y - h * 0.5, x + 2, y + 4, self.lit((104, 70, 42)))
                    self.oval(x, y - h * 0.62, h * 0.24, h * 0.34, self.lit(colour))
        self.hills(ground + 4, 5, self.lit((76, 138, 58)), 1.2)

    def city(self):
        ground = self.between(92, 100)
        self.sky(ground)
        window = {"day": (196, 226, 244), "sunset": (255, 214, 130), "night": (255, 226, 110)}[self.scene.time]
        x = -self.between(0, 10)
        while x < 128:
            width, top = self.between(15, 25), self.between(14, 52)
            grey = choose(self.rng, ((126, 134, 152), (152, 120, 112), (104, 120, 148), (164, 160, 156)))
            self.box(x, top, x + width - 1.5, ground, self.lit(grey))
            for wy in np.arange(top + 4, ground - 6, 8):
                for wx in np.arange(x + 2.5, x + width - 5, 5.5):
                    lit = self.scene.time != "night" or self.rng.random() < 0.6
                    self.box(wx, wy, wx + 3, wy + 4, window if lit else self.lit((60, 70, 96)))
            x += width
        self.box(0, ground, 128, 128, self.lit((92, 94, 102)))
        for x in range(2, 128, 26):
            self.box(x, ground + 13, x + 13, ground + 15.5, self.lit((240, 236, 214)))

    def desert(self):
        horizon = self.between(62, 72)
        self.sky(horizon + 8)
        self.hills(horizon + 4, 16, self.lit((222, 164, 92)), 1.3)
        self.hills(horizon + 14, 12, self.lit((236, 184, 104)), 0.9)
        self.hills(horizon + 32, 10, self.lit((206, 146, 76)), 0.7)

    def room(self):
        wall = choose(self.rng, ((226, 200, 170), (178, 206, 190), (188, 196, 222), (224, 190, 196)))
        dim = tuple(0.5 + 0.5 * k for k in self.light)
        self.box(0, 0, 128, 128, tuple(int(c * k) for c, k in zip(wall, dim, strict=True)))
        floor = self.between(94, 102)
        self.box(0, floor, 128, 128, self.lit((158, 104, 62)))
        self.box(0, floor, 128, floor + 3, self.lit((246, 240, 228)))
        x = self.between(4, 12) if self.rng.random() < 0.5 else self.between(82, 90)
        self.box(x, 12, x + 34, 52, self.lit((250, 246, 240)))
        sky = _SKY[self.scene.time]
        self.box(x + 3, 15, x + 31, 49, tuple((a + b) // 2 for a, b in zip(*sky, strict=True)))
        if self.scene.time == "night":
            self.oval(x + 24, 23, 4, 4, (248, 244, 208))
        elif self.scene.time == "sunset":
            self.oval(x + 12, 46, 6, 3, (255, 240, 150))
        self.box(x + 16, 15, x + 18, 49, self.lit((250, 246, 240)))
        self.box(x + 3, 31, x + 31, 33, self.lit((250, 246, 240)))
        frame = 104 - x if x < 50 else 18
        picture = choose(self.rng, ((220, 80, 70), (70, 130, 200), (240, 200, 70), (90, 160, 90)))
        self.box(frame - 11, 18, frame + 11, 38, self.lit((110, 76, 48)))
        self.box(frame - 9, 20, frame + 9, 36, self.lit(picture))

    def moon(self):
        self.box(0, 0, 128, 128, (8, 8, 22))
        for _ in range(46):
            r = self.between(0.4, 1.0)
            self.oval(self.between(0, 128), self.between(0, 90), r, r, (250, 250, 236))
        x, y = self.between(14, 114), self.between(14, 26)
        self.oval(x, y, 11, 11, (48, 112, 208))
        self.oval(x - 3, y - 2, 5, 4, (76, 168, 92))
        self.oval(x + 5, y + 4, 3, 3, (76, 168, 92))
        ground = self.between(80, 90)
        self.hills(ground, 7, (172, 172, 178), 0.8)
        for _ in range(7):
            x, y, r = self.between(0, 128), self.between(ground + 8, 126), self.between(4, 9)
            self.oval(x, y, r, r * 0.4, (132, 132, 140))

    def mountains(self):
        horizon = self.between(74, 84)
        self.sky(horizon)
        for depth, colour in ((0, (128, 140, 172)), (1, (96, 106, 134))):
            x = -self.between(0, 24)
            while x < 128:
                half = self.between(26, 38)
                top = self.between(26, 42) + 14 * depth
                self.shape([(x, horizon + 8), (x + half, top), (x + 2 * half, horizon + 8)], self.lit(colour))
                cap = (horizon + 8 - top) * 0.28
                slope = half * 0.28
                self.shape(
                    [(x + half, top), (x + half - slope, top + cap), (x + half, top + cap * 0.7), (x + half + slope, top + cap)],
                    self.lit((248, 250, 255)),
                )
                x += half * 1.5
        self.hills(horizon + 10, 8, self.lit((92, 140, 84)), 1.0)

    def meadow(self):
        horizon = self.between(64, 74)
        self.sky(horizon + 8)
        self.hills(horizon + 4, 10, self.lit((140, 196, 92)), 1.2)
        self.hills(horizon + 20, 10, self.lit((112, 176, 72)), 0.8)
        petals = ((250, 250, 250), (246, 90, 110), (250, 214, 70), (190, 110, 220))
        for _ in range(16):
            x, y = self.between(0, 128), self.between(horizon + 16, 126)
            self.oval(x, y, 2.6, 2.6, self.lit(choose(self.rng, petals)))
            self.oval(x, y, 1, 1, self.lit((250, 200, 60)))

    def underwater(self):
        self.gradient((70, 190, 220), (10, 64, 130))
        for _ in range(3):
            x = self.between(0, 110)
            self.shape([(x, 0), (x + 14, 0), (x - 6, 90), (x - 26, 90)], (98, 202, 226))
        ground = self.between(104, 112)
        self.hills(ground, 6, (214, 190, 130), 1.2)
        for _ in range(5):
            x = choose(self.rng, (self.between(2, 26), self.between(102, 126)))
            height = self.between(24, 46)
            self.stroke([(x, ground + 6), (x + 4, ground - height / 2), (x - 3, ground - height)], (36, 140, 96), 4)
        for _ in range(9):
            x, y, r = self.between(4, 124), self.between(6, 90), self.between(1.6, 3.6)
            self.oval(x, y, r, r, (196, 236, 246))

    def studio(self):
        colour = WALL_COLOURS[self.scene.wall]
        self.gradient(tuple(min(255, c + 14) for c in colour), tuple(int(0.86 * c) for c in colour))

    # -- weather --------------------------------------------------------------------------------

    def blend(self, colour, amount):
        self.image = Image.blend(self.image, Image.new("RGB", self.image.size, colour), amount)
        self.pen = ImageDraw.Draw(self.image)

    def rain(self):
        self.blend({"day": (120, 128, 140), "sunset": (120, 100, 104), "night": (20, 26, 44)}[self.scene.time], 0.45)
        for _ in range(34):
            x, y = self.between(-6, 128), self.between(-8, 122)
            self.stroke([(x, y), (x + 4, y + 12)], (196, 212, 232), 1.4)

    def fog(self):
        self.blend({"day": (222, 226, 230), "sunset": (232, 206, 190), "night": (96, 104, 124)}[self.scene.time], 0.66)

    def snowfall(self):
        self.blend((206, 214, 226), 0.25)
        for _ in range(36):
            r = self.between(1.2, 2.4)
            self.oval(self.between(0, 128), self.between(0, 128), r, r, (255, 255, 255))

    # -- details --------------------------------------------------------------------------------

    def detail(self, name: str):
        getattr(self, "_" + name.replace(" ", "_"))(self.side())

    def _palm_tree(self, x):
        self.stroke([(x, 104), (x + 2, 76), (x, 46)], self.lit((138, 96, 56)), 4.5)
        for dx, dy in ((-17, 2), (-12, -9), (0, -14), (12, -9), (17, 2)):
            self.stroke([(x, 46), (x + dx * 0.6, 44 + dy), (x + dx, 52 + dy)], self.lit((40, 146, 66)), 4)

    def _boat(self, x):
        self.shape([(x - 12, 64), (x + 12, 64), (x + 8, 71), (x - 8, 71)], self.lit((176, 52, 44)))
        self.shape([(x, 38), (x, 62), (x + 12, 62)], self.lit((252, 252, 252)))
        self.stroke([(x, 36), (x, 64)], self.lit((96, 64, 40)), 1.5)

    def _umbrella(self, x):
        self.stroke([(x, 62), (x, 108)], self.lit((240, 240, 240)), 2)
        box = self.scale([(x - 19, 48), (x + 19, 80)])
        self.pen.pieslice(box, 180, 360, fill=self.lit((226, 56, 60)))
        self.pen.pieslice(box, 222, 258, fill=self.lit((252, 252, 252)))
        self.pen.pieslice(box, 288, 324, fill=self.lit((252, 252, 252)))

    def _snowman(self, x):
        white, dark = self.lit((255, 255, 255)), (30, 30, 36)
        self.oval(x, 104, 13, 13, self.lit((214, 222, 236)))
        for y, r in ((103, 12), (84, 9), (70, 7)):
            self.oval(x, y, r, r, white)
        self.oval(x - 2.5, 69, 1.2, 1.2, dark)
        self.oval(x + 2.5, 69, 1.2, 1.2, dark)
        self.shape([(x, 71), (x + 6, 72.5), (x, 74)], (244, 128, 32))
        self.box(x - 6, 57, x + 6, 64, dark)

    def _fir_tree(self, x):
        self.fir(x, 106, 64, self.lit((26, 98, 66)), self.lit((250, 252, 255)))

    def _cabin(self, x):
        self.box(x - 15, 72, x + 15, 100, self.lit((140, 88, 52)))
        self.shape([(x - 20, 74), (x, 54), (x + 20, 74)], self.lit((250, 252, 255)))
        self.box(x - 6, 80, x + 6, 90, (255, 218, 110))

    def _tent(self, x):
        self.shape([(x - 19, 104), (x, 68), (x + 19, 104)], self.lit((236, 124, 40)))
        self.shape([(x - 7, 104), (x, 76), (x + 7, 104)], self.lit((110, 56, 24)))

    def _mushroom(self, x):
        self.box(x - 4, 92, x + 4, 110, self.lit((246, 236, 216)))
        self.pen.pieslice(self.scale([(x - 14, 78), (x + 14, 108)]), 180, 360, fill=self.lit((220, 44, 40)))
        for dx, dy in ((-7, 88), (0, 83), (7, 88)):
            self.oval(x + dx, dy, 2, 2, self.lit((255, 255, 255)))

    def _campfire(self, x):
        self.stroke([(x - 11, 110), (x + 11, 104)], self.lit((96, 60, 32)), 4)
        self.stroke([(x - 11, 104), (x + 11, 110)], self.lit((96, 60, 32)), 4)
        self.shape([(x - 9, 104), (x - 5, 86), (x, 78), (x + 5, 88), (x + 9, 104)], (244, 108, 24))
        self.shape([(x - 4, 104), (x, 90), (x + 4, 104)], (255, 222, 84))

    def _car(self, x):
        colour = self.lit(choose(self.rng, ((214, 44, 44), (40, 100, 210), (244, 196, 40))))
        self.box(x - 13, 84, x + 13, 96, colour)
        self.box(x - 21, 94, x + 21, 107, colour)
        self.box(x - 10, 86, x + 10, 94, self.lit((206, 232, 248)))
        for dx in (-12, 12):
            self.oval(x + dx, 107, 5.5, 5.5, (28, 28, 32))

    def _tower(self, x):
        self.shape([(x - 13, 98), (x - 3, 20), (x + 3, 20), (x + 13, 98)], self.lit((190, 70, 60)))
        self.box(x - 9, 44, x + 9, 50, self.lit((240, 230, 220)))
        self.stroke([(x, 6), (x, 20)], self.lit((190, 70, 60)), 2)

    def _street_lamp(self, x):
        self.stroke([(x, 42), (x, 112)], (40, 42, 50), 3)
        self.oval(x, 38, 7, 7, (255, 240, 150) if self.scene.time != "day" else (238, 238, 232))

    def _cactus(self, x):
        green = self.lit((52, 142, 72))
        self.stroke([(x, 58), (x, 110)], green, 8)
        self.stroke([(x, 90), (x - 11, 88), (x - 11, 74)], green, 5)
        self.stroke([(x, 82), (x + 11, 80), (x + 11, 66)], green, 5)

    def _pyramid(self, x):
        self.shape([(x - 26, 88), (x, 50), (x + 26, 88)], self.lit((240, 204, 120)))
        self.shape([(x, 50), (x + 26, 88), (x + 8, 88)], self.lit((180, 132, 66)))

    def _lamp(self, x):
        self.stroke([(x, 62), (x, 110)], self.lit((70, 56, 46)), 2.5)
        self.oval(x, 110, 8, 2.5, self.lit((70, 56, 46)))
        self.shape([(x - 8, 48), (x + 8, 48), (x + 13, 66), (x - 13, 66)], (255, 224, 130))

    def _plant(self, x):
        for dx, dy in ((-12, 68), (-6, 56), (0, 50), (6, 56), (12, 68)):
            self.stroke([(x, 92), (x + dx, dy)], self.lit((46, 146, 70)), 5)
        self.shape([(x - 9, 90), (x + 9, 90), (x + 7, 110), (x - 7, 110)], self.lit((196, 96, 60)))

    def _bookshelf(self, x):
        self.box(x - 16, 46, x + 16, 110, self.lit((112, 72, 42)))
        for y in (49, 64, 79, 94):
            self.box(x - 14, y, x + 14, y + 12, self.lit((70, 44, 26)))
            for i in range(6):
                colour = choose(self.rng, ((206, 60, 52), (60, 110, 190), (236, 190, 70), (80, 150, 90)))
                self.box(x - 13.5 + 4.6 * i, y + 2, x - 10 + 4.6 * i, y + 12, self.lit(colour))

    def _rocket(self, x):
        self.shape([(x - 9, 64), (x, 34), (x + 9, 64), (x + 9, 96), (x - 9, 96)], (236, 238, 242))
        self.shape([(x - 6, 52), (x, 32), (x + 6, 52)], (216, 48, 48))
        self.oval(x, 66, 5, 5, (60, 130, 210))
        self.shape([(x - 9, 84), (x - 18, 102), (x - 9, 98)], (216, 48, 48))
        self.shape([(x + 9, 84), (x + 18, 102), (x + 9, 98)], (216, 48, 48))

    def _flag(self, x):
        self.stroke([(x, 50), (x, 108)], (236, 236, 240), 2)
        left = x if x < 64 else x - 18
        self.box(left, 50, left + 18, 64, (216, 48, 60))

    def _planet(self, x):
        self.oval(x, 44, 11, 11, (232, 170, 96))
        self.stroke([(x - 19, 49), (x + 19, 39)], (246, 222, 170), 3)

    def _goat(self, x):
        white, dark = self.lit((240, 238, 230)), self.lit((70, 64, 60))
        for dx in (-9, -4, 5, 9):
            self.stroke([(x + dx, 96), (x + dx, 110)], dark, 2.5)
        self.oval(x, 94, 13, 8, white)
        self.oval(x - 13, 84, 6, 6, white)
        self.stroke([(x - 13, 80), (x - 8, 72)], dark, 2)
        self.oval(x - 15, 83, 1.2, 1.2, dark)

    def _windmill(self, x):
        self.shape([(x - 9, 104), (x - 5, 60), (x + 5, 60), (x + 9, 104)], self.lit((236, 226, 206)))
        self.shape([(x - 7, 61), (x, 50), (x + 7, 61)], self.lit((176, 66, 54)))
        for dx, dy in ((14, -14), (14, 14), (-14, -14), (-14, 14)):
            self.stroke([(x, 58), (x + dx, 58 + dy)], self.lit((250, 250, 246)), 3.5)
        self.oval(x, 58, 2.5, 2.5, self.lit((90, 70, 56)))

    def _cow(self, x):
        white, dark = self.lit((248, 246, 240)), self.lit((44, 40, 40))
        for dx in (-11, -6, 6, 11):
            self.stroke([(x + dx, 98), (x + dx, 111)], dark, 3)
        self.oval(x, 94, 16, 10, white)
        self.oval(x + 4, 91, 6, 5, dark)
        self.oval(x - 8, 97, 4, 3.5, dark)
        self.oval(x - 16, 84, 7, 6, white)
        self.oval(x - 18, 87, 4.5, 3, self.lit((240, 170, 170)))
        self.oval(x - 16, 82, 1.2, 1.2, dark)

    def _apple_tree(self, x):
        self.stroke([(x, 76), (x, 110)], self.lit((112, 74, 44)), 6)
        for dx, dy, r in ((-9, 70, 12), (9, 70, 12), (0, 58, 14)):
            self.oval(x + dx, dy, r, r, self.lit((62, 140, 62)))
        for dx, dy in ((-10, 68), (-2, 56), (8, 64), (2, 74)):
            self.oval(x + dx, dy, 2.6, 2.6, self.lit((220, 44, 44)))

    def _fish(self, x):
        colour = choose(self.rng, ((250, 150, 40), (246, 84, 96), (250, 220, 70)))
        y = self.between(36, 70)
        self.shape([(x + 8, y), (x + 18, y - 8), (x + 18, y + 8)], colour)
        self.oval(x, y, 12, 8, colour)
        self.oval(x - 6, y - 2, 2, 2, (20, 20, 30))
        self.box(x - 1, y - 7, x + 2, y + 7, (255, 255, 255))

    def _submarine(self, x):
        y = self.between(30, 44)
        self.box(x - 3, y - 16, x + 5, y - 6, (232, 176, 32))
        self.oval(x, y, 20, 9, (250, 204, 48))
        for dx in (-9, 0, 9):
            self.oval(x + dx, y, 3, 3, (40, 90, 140))

    def _coral(self, x):
        colour = choose(self.rng, ((240, 92, 120), (250, 140, 84)))
        self.stroke([(x, 114), (x, 76)], colour, 6)
        self.stroke([(x, 102), (x - 12, 92), (x - 12, 78)], colour, 5)
        self.stroke([(x, 94), (x + 11, 86), (x + 11, 70)], colour, 5)
