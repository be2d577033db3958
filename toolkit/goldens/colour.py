"""Goldens of colour profiles: files that embed one of every kind, and what Little CMS sees in them."""

import io
import json
import platform
import struct
import zlib
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, features

from toolkit.reference.image import object_pixels

SIDE = 64  # of the pictures and the object resolution, so that nothing is resized
EXAMPLES = Path(__file__).parents[2] / "examples"

D50, D65 = (0.34567, 0.35850), (0.3127, 0.3290)
# Primaries (red, green, blue) and white as their standards give them, in CIE xy.
SPACES = {
    "srgb": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65),  # IEC 61966-2-1
    "p3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),  # SMPTE EG 432-1
    "adobe": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65),  # Adobe RGB (1998)
    "prophoto": ((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105), D50),  # ISO 22028-2
    "rec2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),  # ITU-R BT.2020
}
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
PCS_WHITE = np.array([0.9642, 1, 0.8249])


def write(folder: Path) -> None:
    """{file} and {file}.object.png for every fixture, and index.json."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {}
    for name, (encoded, twin) in fixtures().items():
        (folder / name).write_bytes(encoded)
        object_pixels(twin or encoded, SIDE).save(folder / f"{name}.object.png", optimize=True)
        index[name] = {"lossless": not name.endswith((".jpg", "lossy.webp"))}
    for name, encoded in raised().items():
        (folder / name).write_bytes(encoded)
        exact(encoded).save(folder / f"{name}.object.png", optimize=True, icc_profile=None)
        index[name] = {"lossless": True}
    for name, (encoded, plain, warning) in not_applied().items():
        (folder / name).write_bytes(encoded)
        object_pixels(plain, SIDE).save(folder / f"{name}.object.png", optimize=True)
        index[name] = {"lossless": not name.endswith(".jpg"), "warning": warning}
    versions = {"pillow": metadata.version("pillow"), "littlecms2": features.version("littlecms2")}
    versions["numpy"], versions["python"] = np.__version__, ".".join(platform.python_version_tuple()[:2])
    text = {"command": "python -m toolkit goldens", "versions": versions, "object_resolution": SIDE, "fixtures": index}
    (folder / "index.json").write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


def fixtures() -> dict[str, tuple[bytes, bytes | None]]:
    """name → (file, another file that means the same and that Pillow reads rightly)."""
    faces = chart()
    grey, alpha = faces.convert("L"), faces.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))))
    p3, high = rgb_profile("p3"), {"quality": 95, "subsampling": 0}
    profiles = {
        "srgb": rgb_profile("srgb"),
        "p3": p3,
        "p3_table": rgb_profile("p3", curv(power(2.2)), version=2),
        "p3_short_table": rgb_profile("p3", curv(np.linspace(0, 1, 17) ** 2.2), version=2),
        "adobe": rgb_profile("adobe", curv_gamma(563 / 256), version=2),
        "prophoto": rgb_profile("prophoto", curv_gamma(1.8), version=2),
        "rec2020": rgb_profile("rec2020", para(4, 1 / 0.45, 1 / 1.0993, 0.0993 / 1.0993, 1 / 4.5, 0.0812, 0, 0)),
        "linear": rgb_profile("adobe", curv([]), version=2),
        "para0": rgb_profile("p3", para(0, 2.2)),
        "para1": rgb_profile("p3", para(1, 2.2, 1.1, -0.1)),
        "para2": rgb_profile("p3", para(2, 2.0, 0.975, 0.03, -0.01)),
        "para4": rgb_profile("p3", para(4, 2.2, 0.95, 0.02, 0.08, 0.05, 0.03, 0)),
        "three_curves": rgb_profile("p3", curv_gamma(1.8), curv(power(2.4)), curv_gamma(2.2), version=2),
        "input_class": rgb_profile("adobe", curv_gamma(2.2), version=2, kind=b"scnr"),
        "pcs_lab": rgb_profile("p3", pcs=b"Lab "),
    }
    files = {f"{name}.png": (encode(faces, "PNG", icc_profile=data), None) for name, data in profiles.items()}
    greys = {
        "grey_gamma": grey_profile(curv_gamma(1.8), version=2),
        "grey_table": grey_profile(curv(power(2.6)), version=2),
        "grey_para": grey_profile(para(3, *SRGB_CURVE)),
        "grey_lab": grey_profile(curv_gamma(1.2), pcs=b"Lab "),
    }
    files |= {f"{name}.png": (encode(grey, "PNG", icc_profile=data), None) for name, data in greys.items()}
    adobe, dot = profiles["adobe"], greys["grey_gamma"]
    plain = encode(faces, "JPEG", **high)
    palette, deep = faces.quantize(60), Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 99)
    files |= {
        "p3.jpg": (encode(faces, "JPEG", icc_profile=p3, **high), None),
        "prophoto.jpg": (encode(faces, "JPEG", icc_profile=profiles["prophoto"], **high), None),
        "adobe_progressive.jpg": (encode(faces, "JPEG", icc_profile=adobe, progressive=True, **high), None),
        "parts_out_of_order.jpg": (in_parts(plain, p3, 150), None),
        "junk_between.jpg": (b"junk\xff\0\xff\xff\xe2".join(in_parts(plain, p3, 300).rsplit(b"\xff\xe2", 1)), None),
        "grey.jpg": (encode(grey, "JPEG", icc_profile=dot, **high), None),
        "grey_of_rgb.jpg": (encode(grey, "JPEG", icc_profile=adobe, **high), None),
        "p3.webp": (encode(faces, "WEBP", lossless=True, icc_profile=p3), None),
        "p3_alpha.webp": (encode(alpha, "WEBP", lossless=True, exact=True, icc_profile=p3), None),
        # neutral, as decoders differ in how they enlarge WebP's chroma
        "adobe_lossy.webp": (encode(grey.convert("RGB"), "WEBP", quality=95, icc_profile=adobe), None),
        "p3_alpha.png": (encode(alpha, "PNG", icc_profile=p3), None),
        "grey_alpha.png": (encode(alpha.convert("LA"), "PNG", icc_profile=dot), None),
        "grey16.png": (encode(deep, "PNG", icc_profile=dot), None),
        "p3_palette.png": (encode(palette, "PNG", icc_profile=p3), None),
        "p3_palette_alpha.png": (encode(palette, "PNG", icc_profile=p3, transparency=bytes(range(0, 240, 4))), None),
        "p3_cicp.png": (with_chunk(encode(faces, "PNG"), b"cICP", bytes([12, 13, 0, 1])), encode(faces, "PNG", icc_profile=p3)),
        "srgb_cicp.png": (with_chunk(encode(faces, "PNG"), b"cICP", bytes([1, 13, 0, 1])), encode(faces, "PNG")),
        "cut_zlib.png": (with_chunk(encode(faces, "PNG"), b"iCCP", b"x\0\0" + zlib.compress(p3)[:-10]), None),
        # Pillow reads gAMA and cHRM, and neither it nor ImageCms applies them.
        "gamma_chunk.png": (with_chunk(encode(faces, "PNG"), b"gAMA", struct.pack(">I", 55556)), None),
    }
    return files


def raised() -> dict[str, bytes]:
    """Files whose profile makes black lighter than black, which Little CMS then subtracts."""
    curve = 0.05 + 0.95 * power(1.8)
    profiles = {
        "raised_table.png": rgb_profile("adobe", curv(curve), version=2),
        "raised_table_v4.png": rgb_profile("adobe", curv(curve)),
        "raised_far.png": rgb_profile("adobe", curv(0.4 + 0.6 * curve), version=2),
        "raised_para2.png": rgb_profile("p3", para(2, 2.0, 0.95, 0.02, 0.01)),
        "raised_para4.png": rgb_profile("p3", para(4, 2.2, 0.95, 0.02, 0.08, 0.05, 0.01, 0.012)),
    }
    return {name: encode(chart(), "PNG", icc_profile=data) for name, data in profiles.items()}


def exact(encoded: bytes) -> Image.Image:
    """Without Little CMS's optimisation, which approximates what is not mere curves and primaries on
    a grid of 33 points a side, 20/255 off in dark colours."""
    image = Image.open(io.BytesIO(encoded))
    source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    flags = ImageCms.Flags.NOOPTIMIZE
    return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), flags=flags)


def not_applied() -> dict[str, tuple[bytes, bytes, str]]:
    """name → (file whose profile is not applied, the file without it, a word of the warning)."""
    faces, p3 = chart(), rgb_profile("p3")
    plain, jpeg = encode(faces, "PNG"), encode(faces, "JPEG", quality=95, subsampling=0)
    cmyk = encode(faces.convert("CMYK"), "JPEG", quality=95, subsampling=0)
    cmyk_table = profile(b"CMYK", {"A2B0": lut8(4)}, 2, b"prtr", b"Lab ")
    lut = {"A2B0": lut8(3), "wtpt": xyz_tag(PCS_WHITE)}
    both = rgb_profile("p3", version=4).replace(b"chad", b"A2B0")
    compressed = zlib.compress(p3)
    files = {
        "lut.png": (profile(b"RGB ", lut, 2, b"mntr", b"Lab "), "table"),
        "lut_and_matrix.png": (both, "table"),
        "grey_profile.png": (grey_profile(curv_gamma(2.2)), "another kind"),
        "lab_profile.png": (profile(b"Lab ", {}, 2, b"spac", b"Lab "), "another kind"),
        "device_link.png": (rgb_profile("p3", kind=b"link"), "another kind"),
        "no_green.png": (p3.replace(b"gXYZ", b"hXYZ"), "damaged"),
        "no_curve.png": (p3.replace(b"bTRC", b"hTRC"), "damaged"),
        "cut_off.png": (p3[:200], "damaged"),
        "short.png": (p3[:100], "damaged"),
        "not_a_profile.png": (b"colour" * 40, "damaged"),
        "million_tags.png": (p3[:128] + struct.pack(">I", 1 << 28), "damaged"),
        "unknown_para.png": (rgb_profile("p3", para(5, 2.2)), "damaged"),
        "endless_table.png": (rgb_profile("p3", b"curv" + struct.pack(">4xI", 1 << 31)), "damaged"),
    }
    out = {name: (encode(faces, "PNG", icc_profile=data), plain, word) for name, (data, word) in files.items()}
    return out | {
        "not_zlib.png": (with_chunk(plain, b"iCCP", b"x\0\0" + p3), plain, "damaged"),
        "bad_zlib.png": (with_chunk(plain, b"iCCP", b"x\0\0" + compressed[:-1] + b"x"), plain, "damaged"),
        "hdr_cicp.png": (with_chunk(plain, b"cICP", bytes([9, 16, 0, 1])), plain, "9/16"),
        "lost_part.jpg": (in_parts(jpeg, p3, 150, lost=2), jpeg, "damaged"),
        "part_twice.jpg": (in_parts(jpeg, p3, 9000)[: 18 + len(p3) + 2] + in_parts(jpeg, p3, 9000)[2:], jpeg, "damaged"),
        "cmyk.jpg": (in_parts(cmyk, cmyk_table, 60_000), cmyk, "table"),
        "rgb_in_cmyk.jpg": (in_parts(cmyk, p3, 60_000), cmyk, "another kind"),
    }


def chart() -> Image.Image:
    """Three faces, and a quarter with all hues from black over full to white, and greys."""
    image = Image.new("RGB", (SIDE, SIDE))
    half = SIDE // 2
    for k, name in enumerate(("alice", "bob", "carol")):
        face = Image.open(EXAMPLES / f"{name}.png").convert("RGB").resize((half, half), Image.Resampling.BICUBIC)
        image.paste(face, (k % 2 * half, k // 2 * half))
    hue, value = np.meshgrid(np.arange(half), np.arange(half))
    light = value * 2 / (half - 1)
    full = np.clip(np.abs((hue[..., None] / half * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    colours = np.where(light[..., None] < 1, full * light[..., None], 1 - (1 - full) * (2 - light[..., None]))
    colours[-4:] = (hue[-4:] / (half - 1))[..., None]
    image.paste(Image.fromarray((colours * 255).round().astype(np.uint8)), (half, half))
    return image


# Profiles (ICC.1:2022; version 2 differs in the text tags alone).


def rgb_profile(space: str, *curves: bytes, version: int = 4, kind: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    red, green, blue, white = SPACES[space]
    columns = np.array([xyz(p) for p in (red, green, blue)]).T
    columns = columns * np.linalg.solve(columns, xyz(white))
    cone = BRADFORD @ np.array([xyz(white), PCS_WHITE]).T
    adaptation = np.linalg.inv(BRADFORD) @ np.diag(cone[:, 1] / cone[:, 0]) @ BRADFORD
    columns = adaptation @ columns
    curves = curves or (para(3, *SRGB_CURVE),)
    tags = {f"{c}XYZ": xyz_tag(columns[:, i]) for i, c in enumerate("rgb")}
    tags |= {f"{c}TRC": curves[i % len(curves)] for i, c in enumerate("rgb")}
    tags["wtpt"] = xyz_tag(PCS_WHITE)
    if version == 4:
        tags["chad"] = b"sf32" + bytes(4) + b"".join(map(s15_fixed16, adaptation.flat))
    return profile(b"RGB ", tags, version, kind, pcs)


def grey_profile(curve: bytes, version: int = 4, pcs: bytes = b"XYZ ") -> bytes:
    return profile(b"GRAY", {"kTRC": curve, "wtpt": xyz_tag(PCS_WHITE)}, version, b"mntr", pcs)


def profile(space: bytes, tags: dict[str, bytes], version: int, kind: bytes, pcs: bytes) -> bytes:
    if version == 4:
        tags = {"desc": mluc("golden"), "cprt": mluc("CC0"), **tags}
    else:
        description = b"desc" + struct.pack(">4xI", 7) + b"golden\0" + bytes(78)
        tags = {"desc": description, "cprt": b"text" + bytes(4) + b"CC0\0", **tags}
    offset, table, content = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name.encode(), offset + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    date = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    head = struct.pack(">8xI4s4s4s", version << 24, kind, space, pcs) + date + b"acsp" + bytes(28)
    head += b"".join(map(s15_fixed16, PCS_WHITE)) + bytes(48)
    body = head + struct.pack(">I", len(tags)) + table + content
    return struct.pack(">I", len(body)) + body[4:]


def mluc(text: str) -> bytes:
    return b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", 2 * len(text), 28) + text.encode("utf-16-be")


def xyz(point: tuple[float, float]) -> np.ndarray:
    x, y = point
    return np.array([x / y, 1, (1 - x - y) / y])


def s15_fixed16(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def xyz_tag(values) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(s15_fixed16, values))


def power(gamma: float) -> np.ndarray:
    return np.linspace(0, 1, 1024) ** gamma


def curv(points) -> bytes:
    return b"curv" + struct.pack(">4xI", len(points)) + b"".join(struct.pack(">H", round(v * 65535)) for v in points)


def lut8(inputs: int) -> bytes:
    """A table of 2 points a side, all of them one colour."""
    head = struct.pack(">4s4xBBBx", b"mft1", inputs, 3, 2) + b"".join(map(s15_fixed16, np.eye(3).flat))
    return head + bytes(range(256)) * inputs + bytes([128]) * (3 * 2**inputs) + bytes(range(256)) * 3


def curv_gamma(gamma: float) -> bytes:
    return b"curv" + struct.pack(">4xIH", 1, round(gamma * 256))


def para(kind: int, *parameters: float) -> bytes:
    return b"para" + struct.pack(">4xHH", kind, 0) + b"".join(map(s15_fixed16, parameters))


# Files.


def encode(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def in_parts(jpeg: bytes, data: bytes, size: int, lost: int = 0) -> bytes:
    """The profile in APP2 segments of at most `size` bytes, the last one first, less the first `lost`."""
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    head = b"ICC_PROFILE\0"
    segments = [
        b"\xff\xe2" + struct.pack(">H", len(part) + 16) + head + bytes([k + 1, len(parts)]) + part
        for k, part in enumerate(parts)
    ]
    return jpeg[:2] + b"".join(reversed(segments[lost:])) + jpeg[2:]


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """After IHDR, which is 25 bytes long."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png[:33] + chunk + png[33:]
