"""Usage: generate.py FOLDER

Writes some two thousand files of all formats that the gateway reads, sound and damaged, those of the folder cases
among them, and what Pillow sees in them: NAME.file; NAME.rgb, 8-bit RGB rows; index.json, {name: {"width", "height"} or {"error"}}.
"""

import io
import json
import sys
import warnings
from pathlib import Path

import exif
import gif
import jpeg
import png
import webp
from drawing import draw, saved
from PIL import Image, ImageOps


def files():
    for group, variants in (
        ("jpeg", jpeg.variants()),
        ("jpeg", jpeg.layouts()),
        ("jpeg", jpeg.incomplete()),
        ("jpeg", jpeg.other_modes()),
        ("png", png.variants()),
        ("gif", gif.variants()),
        ("webp", webp.variants()),
        ("exif_jpeg", jpeg.turned()),
        ("exif_png", png.turned()),
        ("exif", grid()),
        ("case", ((path.name, path.read_bytes()) for path in sorted(Path(__file__).with_name("cases").iterdir()))),
    ):
        for name, file in variants:
            yield f"{group}_{name}", file


def grid():
    """Every block of EXIF in a JPEG, and the small ones in a PNG and a WebP too."""
    picture = draw(16, 8)
    baseline = saved(picture, "JPEG", quality=95, subsampling=0)
    lossless = webp.chunks(saved(picture, "WEBP", lossless=True))[b"VP8L"]
    for name, block in exif.blocks():
        yield f"{name}_jpeg", baseline[:2] + jpeg.segment(0xE1, b"Exif\0\0" + block) + baseline[2:]
        if not name.startswith("type") or "count1" in name or "count2" in name:
            yield f"{name}_png", png.png(size=(16, 8), before=png.chunk(b"eXIf", block))
            yield f"{name}_webp", webp.riff(webp.extended(webp.EXIF, 16, 8), lossless, webp.chunk(b"EXIF", block))


def seen(file: bytes) -> Image.Image:
    """RGB of a file as the reference reads it (toolkit/reference/image.py), before it is padded and resized."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    if image.mode.startswith("I;16"):  # little endian; Pillow's own conversion clips it
        return Image.frombytes("L", image.size, image.tobytes()[1::2]).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    black = Image.new("RGB", image.size)
    black.paste(image, mask=image.getchannel("A"))
    return black


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    index = {}
    for name, file in files():
        if name in index:
            raise ValueError(f"two files are called {name}")
        (folder / f"{name}.file").write_bytes(file)
        try:
            image = seen(file)
        except Exception as error:  # Pillow raises what it likes
            index[name] = {"error": f"{type(error).__name__}: {error}"}
            continue
        (folder / f"{name}.rgb").write_bytes(image.tobytes())
        index[name] = {"width": image.width, "height": image.height}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
