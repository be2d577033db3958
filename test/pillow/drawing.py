"""The pictures in all the files: no symmetry, so that a turned or shifted one is another."""

import io

from PIL import Image


def draw(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Gradients, and on them a block and a bar."""
    image = Image.new("RGB", (width, height))
    image.putdata([_pixel(x, y, width, height) for y in range(height) for x in range(width)])
    if mode in ("RGBA", "LA"):
        alpha = Image.new("L", image.size)
        alpha.putdata([(x * 255 // max(width - 1, 1) + 37 * (y % 3)) % 256 for y in range(height) for x in range(width)])
        image.putalpha(alpha)
    return image.convert(mode)


def _pixel(x: int, y: int, width: int, height: int) -> tuple[int, int, int]:
    if 4 * x < width and 3 * y < height:
        return 230, 190, 30
    if 4 * x > 3 * width and 2 * y > height:
        return 20, 40, 140
    return _gradient(x, y, width, height)


def _gradient(x: int, y: int, width: int, height: int) -> tuple[int, int, int]:
    return 255 * x // width, 255 * y // height, 255 - 255 * x * y // (width * height)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
