"""Writes testdata/layouts: JPEGs of every chroma layout that libjpeg-turbo opens, and what Pillow reads in them.

    python layouts.py     (Pillow 13.0.0 with libjpeg-turbo 3.2.0; cjpeg 2.1.5 of Debian's libjpeg-turbo-progs)
"""

import io
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).parent / "layouts"


def picture(width, height):
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 100 * np.sin(x / 5 + y / 9), 128 + 110 * np.cos(x / 7), 128 + 110 * np.sin(y / 6 + x / 21)]
    return Image.fromarray(np.stack(planes, -1).round().astype(np.uint8))


def cjpeg(image, *options):
    ppm = io.BytesIO()
    image.save(ppm, "PPM")
    return subprocess.run(["cjpeg", "-quality", "90", *options], input=ppm.getvalue(), capture_output=True, check=True).stdout


def pillow(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def write(name, file):
    (OUT / f"{name}.jpg").write_bytes(file)
    Image.open(io.BytesIO(file)).convert("RGB").save(OUT / f"{name}.png", optimize=True)


def scans(*lines):
    path = Path("/tmp/layouts.scans")
    path.write_text("".join(line + ";\n" for line in lines))
    return ["-scans", str(path)]


def first_scans(file, keep):
    """A file up to the data of its first scans."""
    out, at, scans = file[:2], 2, 0
    while file[at + 1] != 0xD9:
        end = at + 2 + int.from_bytes(file[at + 2 : at + 4], "big")
        while file[end] != 0xFF or file[end + 1] == 0 or 0xD0 <= file[end + 1] <= 0xD7:
            end += 1
        scans += file[at + 1] == 0xDA
        if scans > keep:
            break
        out, at = out + file[at:end], end
    return out + b"\xff\xd9"


def incomplete():
    for kind in ("444", "422", "420", "restart", "grey", "cmyk"):
        file = (OUT.parent / f"progressive_{kind}.jpg").read_bytes()
        for keep in (1, 2, 3, 4, 5):
            write(f"progressive_{kind}_scans{keep}", first_scans(file, keep))


def main():
    OUT.mkdir(exist_ok=True)
    image = picture(53, 37)
    for sample in (
        "2x2,1x1,1x2", "2x2,1x1,2x2", "2x2,2x1,1x2", "2x2,2x1,2x1", "2x1,1x2,1x1", "1x1,2x2,2x2", "1x1,2x1,1x2", "1x1,1x2,1x1",
        "1x2,1x1,1x1", "4x1,2x1,1x1", "4x2,1x1,1x1", "1x4,1x1,1x1", "1x3,1x1,1x1", "3x1,1x1,1x1", "3x2,1x1,3x1",
    ):  # fmt: skip
        write(sample.replace(",", "_"), cjpeg(image, "-sample", sample))
        write(sample.replace(",", "_") + "_progressive", cjpeg(image, "-progressive", "-restart", "2B", "-sample", sample))
    write("alone", cjpeg(image, *scans("0", "1", "2")))
    write("alone_restart", cjpeg(image, "-restart", "3B", *scans("2", "0", "1")))
    write("alone_4x4", cjpeg(image, "-sample", "4x4,1x1,2x1", *scans("0", "1", "2")))
    write("alone_3x3", cjpeg(image, "-sample", "3x3,1x1,1x3", "-restart", "1", *scans("0", "1", "2")))
    write("luma_then_chroma", cjpeg(image, *scans("0", "1 2")))
    write("chroma_then_luma", cjpeg(image, "-sample", "4x2,2x1,1x1", *scans("1 2", "0")))
    write("rgb_2x1_green", cjpeg(image, "-rgb", "-sample", "1x1,2x1,1x1"))
    cmyk = Image.merge("CMYK", [*image.split(), image.split()[1].point(lambda v: v // 3)])
    write("cmyk_2x2_1x1_1x1_1x1", pillow(cmyk, subsampling=2))
    write("cmyk_2x1_1x1_1x1_1x1_progressive", pillow(cmyk, subsampling=1, progressive=True))
    # The edges of interpolation: one MCU, few columns, few rows.
    for width, height in ((1, 1), (2, 2), (3, 2), (4, 9), (5, 3), (7, 33), (16, 16), (17, 16), (32, 17), (33, 18)):
        for sample in ("2x2", "2x1", "1x2"):
            write(f"{width}x{height}_{sample}", cjpeg(picture(width, height), "-sample", sample))

    incomplete()


main()
