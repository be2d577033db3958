"""Goldens of the gateway's pictures: files of every kind, and what the reference sees in them."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from toolkit.goldens.files import header
from toolkit.reference.image import object_pixels, pixel_values

OBJECT_RESOLUTION, ENCODER_SIZE = 128, 64
ORIENTATION = 0x0112
# Pictures and the sizes at which a safety checker sees them.
SAFETY = (
    ("odd.png.object512.png", 224),
    ("rgb.png", 64),
    ("odd.png", 32),
    ("small.png", 64),
    ("noise.png", 32),
    ("noise.png", 48),
)


def write(folder: Path, write_tensors) -> None:
    """{file} and {file}.object.png for every fixture, index.json, tensors.safetensors; noise.png, safety.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    index, tensors = {}, {}
    for name, (encoded, lossless) in fixtures().items():
        pixels = object_pixels(encoded, OBJECT_RESOLUTION)
        (folder / name).write_bytes(encoded)
        pixels.save(folder / f"{name}.object.png", optimize=True)
        index[name] = {"lossless": lossless}
        if name in ("rgb.png", "odd.png", "small.png", "rgba.png"):
            tensors[f"{name}.pixel_values"] = pixel_values(pixels, ENCODER_SIZE)
    sd15 = object_pixels((folder / "odd.png").read_bytes(), 512)
    sd15.save(folder / "odd.png.object512.png", optimize=True)
    tensors["odd.png.pixel_values224"] = pixel_values(sd15, 224)

    # around every half: round half to even, and clamping
    steps = torch.arange(-4, 3 * 1024 - 4, dtype=torch.float64) / (2 * 767)
    image = (steps * 2 - 1).float().reshape(3, 32, 32)
    halves = ((torch.arange(256) + 0.5) / 255 * 2 - 1).repeat(3, 1).reshape(3, 16, 16)
    for key, value in {"ramp": image, "halves": halves}.items():
        rounded = VaeImageProcessor().postprocess(value[None], output_type="pil")[0]
        tensors[f"{key}.image"], tensors[f"{key}.pixels"] = value, np.array(rounded)
    write_tensors(folder / "tensors.safetensors", tensors)
    write_safety(folder, write_tensors)
    text = json.dumps(header(object_resolution=OBJECT_RESOLUTION, fixtures=index), indent=2)
    (folder / "index.json").write_text(text + "\n", encoding="utf-8")


def write_safety(folder: Path, write_tensors) -> None:
    """{file}.clip{size} [3, size, size]: what CLIPImageProcessor makes of a finished picture.

    On Pillow, as in the releases that Stable Diffusion came with; transformers' default has become torchvision.
    """
    noise = np.random.default_rng(0).integers(0, 2, (48, 61, 3), np.uint8) * 255
    Image.fromarray(noise).save(folder / "noise.png", optimize=True)
    tensors = {}
    for name, size in SAFETY:
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}, resample=Image.Resampling.BICUBIC
        )
        tensors[f"{name}.clip{size}"] = processor(Image.open(folder / name), return_tensors="pt").pixel_values[0]
    write_tensors(folder / "safety.safetensors", tensors)


def fixtures() -> dict[str, tuple[bytes, bool]]:
    """name → (file, decoders agree to the last bit or two). JPEG counts as lossless here where its
    chroma is not subsampled: decoders differ mostly in how they enlarge that."""
    image, tall, alpha = draw(90, 60), draw(61, 98), draw(70, 50)
    alpha.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 70).astype(np.uint8), (50, 1))))
    keyed = draw(64, 64).quantize(6).convert("RGB")
    corner = keyed.getpixel((0, 0))
    palette = image.quantize(40)
    grey = image.convert("L")
    high, wide = {"quality": 95, "subsampling": 0}, (np.asarray(image) * 257.0 - 3).clip(0).astype(np.uint16)
    files = {
        "rgb.png": (encode(image, "PNG"), True),
        "odd.png": (encode(tall, "PNG"), True),
        "small.png": (encode(draw(20, 17), "PNG"), True),
        "large.png": (encode(draw(700, 410).quantize(12).convert("RGB"), "PNG"), True),
        "rgba.png": (encode(alpha, "PNG"), True),
        "keyed.png": (encode(keyed, "PNG", transparency=corner), True),
        "grey.png": (encode(grey, "PNG"), True),
        "grey_alpha.png": (encode(alpha.convert("LA"), "PNG"), True),
        "grey_keyed.png": (encode(grey, "PNG", transparency=grey.getpixel((0, 0))), True),
        "bilevel.png": (encode(grey.convert("1"), "PNG"), True),
        "palette.png": (encode(palette, "PNG"), True),
        "palette_alpha.png": (encode(palette, "PNG", transparency=bytes(range(0, 200, 5))), True),
        "grey16.png": (encode(Image.fromarray(wide[..., 1]), "PNG"), True),
        "rgb16.png": (png16(wide), True),
        "palette.gif": (encode(palette, "GIF"), True),
        "animated.gif": (animation(image, draw(90, 60).rotate(180)), True),
        "lossless.webp": (encode(image, "WEBP", lossless=True), True),
        "alpha.webp": (encode(alpha, "WEBP", lossless=True, exact=True), True),
        "lossy.webp": (encode(image, "WEBP", quality=90), False),
        "cmyk.jpg": (encode(image.convert("CMYK"), "JPEG", **high), True),
        "grey.jpg": (encode(grey, "JPEG", **high), True),
        "progressive.jpg": (encode(tall, "JPEG", progressive=True, **high), True),
        "subsampled.jpg": (encode(image, "JPEG", quality=90, subsampling=2), False),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        files[f"orientation{orientation}.jpg"] = (encode(image, "JPEG", exif=exif, **high), True)
        if orientation == 6:
            files["orientation6.png"] = (encode(image, "PNG", exif=exif), True)
            files["orientation6.webp"] = (encode(image, "WEBP", lossless=True, exif=exif), True)
    return files


def draw(width: int, height: int) -> Image.Image:
    """A picture without symmetry: gradients, a disc and a bar with hard edges."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    pixels = np.stack([255 * x, 255 * y, 255 * (1 - x * y)], axis=-1)
    pixels[(x - 0.3) ** 2 + (y - 0.35) ** 2 < 0.04] = (250, 210, 40)
    pixels[(abs(x - 0.75) < 0.06) & (y > 0.4)] = (10, 30, 120)
    return Image.fromarray(pixels.round().astype(np.uint8))


def encode(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def animation(first: Image.Image, second: Image.Image) -> bytes:
    frames = [first.quantize(40), second.quantize(40)]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)


def png16(pixels: np.ndarray) -> bytes:
    """16-bit RGB PNG of uint16 [h, w, 3], which Pillow reads but does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks.items():
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return out
