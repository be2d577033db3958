"""JPEG, segment by segment."""

import struct
from math import cos, sin

import exif
from drawing import draw, saved
from PIL import Image

SOI, EOI, SOS = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def flat(size: tuple[int, int], sampling: list[tuple[int, int]], interleaved: bool = True, restart: int = 0, adobe: int | None = None) -> bytes:
    """A baseline file whose blocks have one value each, of components sampled (horizontally, vertically): any layout there is."""
    (width, height), n = size, len(sampling)
    most_h, most_v = max(h for h, _ in sampling), max(v for _, v in sampling)
    across, down = -(-width // (8 * most_h)), -(-height // (8 * most_v))
    out = SOI + segment(0xDB, b"\0" + b"\x08" * 64)
    out += segment(0xC4, b"\0" + bytes([0, 0, 0, 12] + [0] * 12 + list(range(12))))  # DC: categories 0 to 11 have four bits
    out += segment(0xC4, b"\x10" + bytes([1] + [0] * 15 + [0]))  # AC: the end of a block is one bit
    if adobe is not None:
        out += segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([adobe]))
    components = b"".join(bytes([i + 1, h * 16 + v, 0]) for i, (h, v) in enumerate(sampling))
    out += segment(0xC0, struct.pack(">BHHB", 8, height, width, n) + components)
    if restart:
        out += segment(0xDD, struct.pack(">H", restart))

    def level(component: int, x: int, y: int) -> int:
        """The value of a block, less 128, from its place in the picture; smooth, for decoders enlarge chroma in different ways."""
        h, v = sampling[component]
        px, py = (x + 0.5) / (h * across), (y + 0.5) / (v * down)
        return round((90 * px - 60, 40 - 70 * py, 60 * px * py - 20, 50 * py - 50)[component])

    def scan(parts: list[int]) -> bytes:
        head = segment(0xDA, bytes([len(parts)]) + b"".join(bytes([c + 1, 0]) for c in parts) + b"\0\x3f\0")
        if len(parts) == 1:
            h, v = sampling[parts[0]]
            columns, rows = -(-width * h // (8 * most_h)), -(-height * v // (8 * most_v))
            units = [[(parts[0], x, y)] for y in range(rows) for x in range(columns)]
        else:
            units = [
                [(c, mx * sampling[c][0] + x, my * sampling[c][1] + y) for c in parts for y in range(sampling[c][1]) for x in range(sampling[c][0])]
                for my in range(down)
                for mx in range(across)
            ]
        step = restart or len(units)
        intervals = [coded(units[i : i + step], level) for i in range(0, len(units), step)]
        body = intervals[0] + b"".join(bytes([0xFF, 0xD0 + i % 8]) + data for i, data in enumerate(intervals[1:]))
        return head + body

    scans = [list(range(n))] if interleaved else [[c] for c in range(n)]
    return out + b"".join(scan(parts) for parts in scans) + EOI


def coded(units: list, level) -> bytes:
    """The entropy-coded data of MCUs between two restarts."""
    bits, before = "", {}
    for component, x, y in (block for unit in units for block in unit):
        value = level(component, x, y)
        difference = value - before.get(component, 0)
        before[component] = value
        bits += category(difference) + "0"
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def category(difference: int) -> str:
    """A difference by the table in which each category has the four bits of its number."""
    length = abs(difference).bit_length()
    return f"{length:04b}" + (f"{difference if difference > 0 else difference + 2**length - 1:0{length}b}" if length else "")


LAYOUTS = [
    [(1, 1), (1, 1), (1, 1)], [(2, 1), (1, 1), (1, 1)], [(1, 2), (1, 1), (1, 1)], [(2, 2), (1, 1), (1, 1)], [(4, 1), (1, 1), (1, 1)],
    [(1, 4), (1, 1), (1, 1)], [(4, 2), (1, 1), (1, 1)], [(2, 4), (1, 1), (1, 1)], [(2, 2), (2, 2), (2, 2)], [(2, 1), (2, 1), (2, 1)],
    [(1, 2), (1, 2), (1, 2)], [(2, 2), (1, 1), (1, 2)], [(2, 2), (1, 1), (2, 2)], [(2, 2), (1, 2), (1, 1)], [(2, 2), (2, 1), (1, 1)],
    [(2, 2), (2, 1), (2, 1)], [(2, 2), (1, 2), (1, 2)], [(2, 2), (2, 1), (1, 2)], [(2, 2), (2, 2), (1, 1)], [(2, 1), (1, 1), (2, 1)],
    [(2, 1), (2, 1), (1, 1)], [(1, 2), (1, 1), (1, 2)], [(1, 1), (2, 2), (2, 2)], [(1, 1), (2, 1), (2, 1)], [(1, 1), (1, 2), (1, 1)],
    [(1, 2), (2, 1), (1, 1)], [(2, 1), (1, 2), (1, 2)], [(3, 1), (1, 1), (1, 1)], [(1, 3), (1, 1), (1, 1)], [(3, 2), (1, 1), (1, 1)],
    [(3, 1), (3, 1), (3, 1)], [(4, 1), (2, 1), (2, 1)], [(4, 1), (2, 1), (1, 1)], [(3, 1), (2, 1), (1, 1)], [(3, 2), (2, 1), (1, 1)],
]  # fmt: skip


def layouts():
    for layout in LAYOUTS:
        name = "_".join(f"{h}x{v}" for h, v in layout)
        yield f"layout_{name}", flat((37, 29), layout)
        yield f"layout_{name}_scans", flat((37, 29), layout, interleaved=False)
        yield f"layout_{name}_restart", flat((37, 29), layout, restart=2)
    for h, v in ((1, 1), (2, 2), (2, 1), (1, 2), (4, 4), (3, 1), (4, 1)):
        yield f"layout_grey_{h}x{v}", flat((37, 29), [(h, v)])
        yield f"layout_cmyk_{h}x{v}", flat((37, 29), [(h, v), (1, 1), (1, 1), (h, v)], adobe=0) if h * v * 2 + 2 <= 10 else flat((9, 9), [(1, 1)] * 4)
    for adobe in (0, 1, 2):
        yield f"adobe{adobe}_of_3", flat((37, 29), [(1, 1)] * 3, adobe=adobe)
        yield f"adobe{adobe}_of_4", flat((37, 29), [(1, 1)] * 4, adobe=adobe)
    yield "no_adobe_of_4", flat((37, 29), [(1, 1)] * 4)
    yield "of_2", flat((37, 29), [(1, 1)] * 2)


def variants():
    image = draw(45, 34)
    high = {"quality": 95, "subsampling": 0}
    cmyk = image.convert("CMYK")
    for progressive in (False, True):
        word = "_progressive" if progressive else ""
        kind = {"progressive": progressive}
        for subsampling in (0, 1, 2):
            for quality in (50, 90, 100):
                yield f"sub{subsampling}_q{quality}{word}", saved(image, "JPEG", quality=quality, subsampling=subsampling, **kind)
        yield f"grey{word}", saved(image.convert("L"), "JPEG", **high, **kind)
        yield f"cmyk{word}", saved(cmyk, "JPEG", **high, **kind)
        yield f"rgb{word}", saved(image, "JPEG", keep_rgb=True, **high, **kind)
        yield f"restart{word}", saved(image, "JPEG", restart_marker_blocks=3, **high, **kind)
        yield f"sub2_restart_rows{word}", saved(image, "JPEG", restart_marker_rows=1, quality=90, **kind)
        yield f"optimized{word}", saved(image, "JPEG", optimize=True, **high, **kind)
        for size in ((1, 1), (8, 8), (7, 13), (16, 1), (33, 20)):
            yield f"size{size[0]}x{size[1]}{word}", saved(draw(*size), "JPEG", **high, **kind)
        for what, file in (("", saved(image, "JPEG", **high, **kind)), ("grey_", saved(image.convert("L"), "JPEG", **high, **kind)),
                           ("cmyk_", saved(cmyk, "JPEG", **high, **kind)), ("sub2_", saved(image, "JPEG", quality=90, **kind)),
                           ("restart_", saved(image, "JPEG", restart_marker_blocks=3, **high, **kind))):  # fmt: skip
            for damage, damaged in damages(file).items():
                yield f"{what}{damage}{word}", damaged


def damages(file: bytes) -> dict[str, bytes]:
    body = file.removesuffix(EOI)
    scan = file.index(SOS)
    return {
        "no_eoi": body,
        "half_eoi": file[:-1],
        "zeros_for_eoi": body + bytes(512),
        "zeros_behind": file + bytes(512),
        "trailer": file + b"a vendor's trailer " * 40,
        "trailer_for_eoi": body + b"a vendor's trailer " * 40,
        "trailer_of_markers": file + SOI + b"\xff\xe1\0\4ab" + b"\xff\xda",
        "two_pictures": file + file,
        "eoi_twice": file + EOI,
        "fill_before_eoi": body + b"\xff\xff\xff\xff" + EOI,
        "rubbish_before_eoi": body + b"rubbish" + EOI,
        "fill_before_segment": SOI + b"\xff\xff\xff" + file[2:],
        "rubbish_between_segments": file[:scan] + b"\0\0\0\0" + file[scan:],
        "comment_before_eoi": body + segment(0xFE, b"a comment") + EOI,
        "comment_empty": SOI + segment(0xFE, b"") + file[2:],
        "com_and_apps": SOI + b"".join(segment(m, b"xyz" * 9) for m in (0xFE, 0xE3, 0xED, 0xEF)) + file[2:],
        "no_jfif": SOI + file[2 + 2 + struct.unpack(">H", file[4:6])[0] :] if file[3] == 0xE0 else file,
        "cut_half": file[: (scan + len(file)) // 2],
        "half_scan_eoi": file[:scan] + half_scan(next(part for part in parts(file) if of_scan(part))) + EOI,
        "cut_tenth": file[: scan + (len(file) - scan) // 10],
        "cut_header": file[: scan // 2],
        "cut_before_scan": file[:scan],
    }


def parts(file: bytes) -> list[bytes]:
    """The segments between SOI and EOI, each scan with its data."""
    found, at = [], 2
    while file[at + 1] != 0xD9:
        end = at + 2 + struct.unpack(">H", file[at + 2 : at + 4])[0]
        while file[end] != 0xFF or file[end + 1] == 0 or 0xD0 <= file[end + 1] <= 0xD7:
            end += 1
        found.append(file[at:end])
        at = end
    return found


def of_scan(part: bytes) -> tuple[list[int], int, int] | None:
    """The components of a scan, the first of its coefficients, and how many low bits it leaves out."""
    if part[:2] != SOS:
        return None
    head = part[4 : 2 + struct.unpack(">H", part[2:4])[0]]
    return list(head[1:-3:2]), head[-3], head[-1] & 15


def half_scan(part: bytes) -> bytes:
    """A scan with the first half of its data."""
    data = 2 + struct.unpack(">H", part[2:4])[0]
    return part[: (data + len(part)) // 2]


def incomplete():
    """Files that lack whole scans, progressive ones and those of one component after the other."""
    photo = noisy(150, 109)
    for name, options in {
        "444": dict(subsampling=0), "420": dict(subsampling=2), "422": dict(subsampling=1), "420_low": dict(subsampling=2, quality=20),
        "420_restart": dict(subsampling=2, restart_marker_blocks=5), "grey": dict(), "cmyk": dict(),
    }.items():  # fmt: skip
        image = photo.convert({"grey": "L", "cmyk": "CMYK"}.get(name, "RGB"))
        for size in ((150, 109), (39, 27)):
            file = saved(image.crop((0, 0, *size)), "JPEG", progressive=True, **{"quality": 85, **options})
            segments = parts(file)
            scans = [i for i, part in enumerate(segments) if of_scan(part)]
            for n, at in enumerate(scans[:-1], 1):
                head = SOI + b"".join(segments[: at + 1])
                where = f"{name}_{size[0]}_scans{n}"
                yield f"incomplete_{where}", head + EOI
                if size == (39, 27):
                    yield f"incomplete_{where}_tables", SOI + b"".join(segments[: scans[n]]) + EOI
                    yield f"incomplete_{where}_endless", head
                    yield f"incomplete_{where}_zeros", head + bytes(512)
                    in_scan = SOI + b"".join(segments[: scans[n]]) + half_scan(segments[scans[n]])
                    yield f"incomplete_{where}_in_scan", in_scan
                    yield f"incomplete_{where}_in_scan_eoi", in_scan + EOI
            lacking = {
                "chroma_frequencies": lambda scan: scan[0] == [1] or scan[1] == 0,
                "luma_frequencies": lambda scan: scan[0] != [1] or scan[1] == 0,
                "low_bits": lambda scan: scan[2] > 0 or scan[1] == 0,
                "high_frequencies": lambda scan: scan[1] < 6,
                "all_frequencies": lambda scan: scan[1] == 0,
            }
            for what, keeps in lacking.items():
                if name not in ("grey", "cmyk"):
                    kept = [part for part in segments if of_scan(part) is None or keeps(of_scan(part))]
                    yield f"lacking_{what}_{name}_{size[0]}", SOI + b"".join(kept) + EOI
    for name, layout in {"444": [(1, 1)] * 3, "420": [(2, 2), (1, 1), (1, 1)], "cmyk": [(1, 1)] * 4}.items():
        segments = parts(flat((37, 29), layout, interleaved=False))
        for n in range(1, len(layout)):
            yield f"components{n}_of_{name}", SOI + b"".join(segments[: n - len(layout)]) + EOI
            yield f"components{n}_of_{name}_no_eoi", SOI + b"".join(segments[: n - len(layout)])


def noisy(width: int, height: int):
    """Curves and a little noise, as in a photograph."""
    image, state = Image.new("RGB", (width, height)), 1
    pixels = []
    for y in range(height):
        for x in range(width):
            state = state * 1103515245 + 12345 & 0x7FFFFFFF
            noise = (state >> 16) % 13 - 6
            pixels.append(tuple(int(v) + noise for v in (128 + 90 * sin(x / 17) * cos(y / 23), 120 + 80 * cos((x + y) / 31), 100 + 60 * sin(x * y / 4000))))
    image.putdata(pixels)
    return image


def lossless(image, predictor: int = 1) -> bytes:
    """Of differences to the sample on the left; those of the first column, to the sample above."""
    (width, height), n = image.size, len(image.getbands())
    out = SOI + segment(0xC4, b"\0" + bytes([0, 0, 0, 12] + [0] * 12 + list(range(12))))
    out += segment(0xC3, struct.pack(">BHHB", 8, height, width, n) + b"".join(bytes([ord("RGB"[i]), 0x11, 0]) for i in range(n)))
    out += segment(0xDA, bytes([n]) + b"".join(bytes([ord("RGB"[i]), 0]) for i in range(n)) + bytes([predictor, 0, 0]))
    bits = ""
    for y in range(height):
        for x in range(width):
            for c in range(n):
                at = lambda x, y, c=c: image.getchannel(c).getpixel((x, y))  # noqa: E731
                difference = at(x, y) - (at(x - 1, y) if x else at(x, y - 1) if y else 128)
                bits += category(difference)
    bits += "1" * (-len(bits) % 8)
    return out + int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0") + EOI


def other_modes():
    image = draw(21, 14)
    yield "lossless_rgb", lossless(image)
    yield "lossless_grey", lossless(image.convert("L"))
    baseline = saved(image, "JPEG", quality=90, subsampling=0)
    frame = baseline.index(b"\xff\xc0")
    for marker in (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF):
        yield f"hierarchical_{marker:x}", baseline[:frame] + bytes([0xFF, marker]) + baseline[frame + 2 :]
    for precision in (2, 12, 16):
        yield f"precision{precision}", baseline[: frame + 4] + bytes([precision]) + baseline[frame + 5 :]
    yield "height_0", baseline[: frame + 5] + b"\0\0" + baseline[frame + 7 :]
    for word in ("", "_progressive"):
        file = saved(noisy(48, 40), "JPEG", quality=85, subsampling=0, restart_marker_blocks=3, progressive=word != "")
        first, third = file.index(b"\xff\xd0"), file.index(b"\xff\xd2")
        yield f"restarts_whole{word}", file
        yield f"restarts_without_first{word}", file[:first] + file[first + 2 :]
        yield f"restarts_without_third{word}", file[:third] + file[third + 2 :]
        yield f"restarts_other_number{word}", file[:first] + b"\xff\xd4" + file[first + 2 :]
        yield f"restarts_without_interval{word}", file[:first] + file[third:]
        yield f"restarts_none{word}", SOI + b"".join(without_restarts(part) for part in parts(file)) + EOI


def without_restarts(part: bytes) -> bytes:
    if not of_scan(part):
        return part
    for marker in range(0xD0, 0xD8):
        part = part.replace(bytes([0xFF, marker]), b"")
    return part


def turned():
    """Orientation in the places that a JPEG has for it."""
    file = saved(draw(24, 16), "JPEG", quality=95, subsampling=0)
    turn, other = exif.block(">", [exif.orientation(">", number=6)]), exif.block("<", [exif.orientation("<", number=3)])
    app1, second = segment(0xE1, b"Exif\0\0" + turn), segment(0xE1, b"Exif\0\0" + other)
    packet = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + exif.xmp(8))
    long = exif.block("<", [exif.entry("<", exif.MAKE, 2, 40, b"A camera with a rather long name, indeed"), exif.orientation("<")])
    jfif = file[2 : 4 + struct.unpack(">H", file[4:6])[0]]
    rest = file[2 + len(jfif) :]
    scan = rest.index(SOS)
    orders = {
        "jfif_exif": jfif + app1,
        "exif_jfif": app1 + jfif,
        "exif_alone": app1,
        "icc_exif": jfif + segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(64)) + app1,
        "xmp_exif": jfif + packet + app1,
        "exif_xmp": jfif + app1 + packet,
        "xmp": jfif + packet,
        "xmp_element": jfif + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + exif.xmp(8, True)),
        "xmp_9": jfif + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + exif.xmp(9)),
        "xmp_0": jfif + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + exif.xmp(0)),
        "xmp_no_number": jfif + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + exif.xmp("left")),
        "xmp_twice": jfif + packet + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + exif.xmp(3)),
        "xmp_and_exif_without": jfif + packet + segment(0xE1, b"Exif\0\0" + exif.block("<", [])),
        "xmp_and_exif_of_bytes": jfif + packet + segment(0xE1, b"Exif\0\0" + exif.block("<", [exif.orientation("<", 1)])),
        "xmp_and_exif_of_0": jfif + packet + segment(0xE1, b"Exif\0\0" + exif.block("<", [exif.orientation("<", number=0)])),
        "exif_twice": jfif + app1 + second,
        "exif_twice_other_first": jfif + second + app1,
        "exif_in_two": jfif + segment(0xE1, b"Exif\0\0" + long[:20]) + segment(0xE1, b"Exif\0\0" + long[20:]),
        "exif_head_twice": jfif + segment(0xE1, b"Exif\0\0Exif\0\0" + turn),
        "exif_head_thrice": jfif + segment(0xE1, b"Exif\0\0Exif\0\0Exif\0\0" + turn),
        "exif_head_odd": jfif + segment(0xE1, b"Exif\0\1" + turn),
        "exif_small_letters": jfif + segment(0xE1, b"exif\0\0" + turn),
        "exif_in_app2": jfif + segment(0xE2, b"Exif\0\0" + turn),
        "exif_after_fill": jfif + b"\xff\xff\xff" + app1,
        "exif_after_rubbish": jfif + b"\0\0\0" + app1,
        "exif_after_stuffing": jfif + b"\xff\0" + app1,
        "exif_after_other_segments": jfif + b"".join(segment(m, bytes(20)) for m in (0xED, 0xEE, 0xFE, 0xE5)) + app1,
        "exif_empty": jfif + segment(0xE1, b"Exif\0\0"),
    }  # fmt: skip
    for name, segments in orders.items():
        yield name, SOI + segments + rest
    yield "exif_after_tables", SOI + jfif + rest[:scan] + app1 + rest[scan:]
    yield "exif_after_scan", SOI + jfif + rest.removesuffix(EOI) + app1 + EOI
    yield "exif_after_end", SOI + jfif + rest + app1
