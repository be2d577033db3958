"""PNG, chunk by chunk."""

import struct
import zlib

import exif
from drawing import draw

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) if crc is None else crc)


def header(width: int, height: int, depth: int, color: int, interlaced: bool = False) -> bytes:
    return struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)


def samples(width: int, height: int, depth: int, color: int) -> list[list[list[int]]]:
    """Rows of pixels of samples."""
    mode = {GREY: "L", RGB: "RGB", PALETTE: "L", GREY_ALPHA: "LA", RGBA: "RGBA"}[color]
    image, most = draw(width, height, mode), 2**depth - 1
    pixels = [p if isinstance(p, tuple) else (p,) for p in image.getdata()]
    scaled = [[(v * most + 127) // 255 if depth <= 8 else v * 256 + 77 for v in p] for p in pixels]
    return [scaled[y * width : (y + 1) * width] for y in range(height)]


def packed(row: list[list[int]], depth: int, filter_type: int, above: bytes | None) -> tuple[bytes, bytes]:
    """A row with its filter byte, and the row's bytes before filtering."""
    values = [v for pixel in row for v in pixel]
    if depth == 16:
        raw = struct.pack(f">{len(values)}H", *values)
    else:
        bits = "".join(f"{v:0{depth}b}" for v in values)
        bits += "0" * (-len(bits) % 8)
        raw = int(bits, 2).to_bytes(len(bits) // 8, "big")
    step = max(1, len(row[0]) * depth // 8)
    above = above or bytes(len(raw))
    out = bytearray([filter_type])
    for i, v in enumerate(raw):
        left, up, corner = (raw[i - step] if i >= step else 0), above[i], (above[i - step] if i >= step else 0)
        out.append((v - (0, left, up, (left + up) // 2, _paeth(left, up, corner))[filter_type]) % 256)
    return bytes(out), raw


def _paeth(a: int, b: int, c: int) -> int:
    p = a + b - c
    return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]


def data(rows: list, depth: int, interlaced: bool = False) -> bytes:
    """The pixel data, not compressed; filters in turn."""
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    out = b""
    for x, y, dx, dy in passes:
        above = None
        for n, row in enumerate(r[x::dx] for r in rows[y::dy]):
            if row:
                line, above = packed(row, depth, n % 5, above)
                out += line
    return out


PLTE = bytes(v for i in range(256) for v in ((i * 7) % 256, 255 - i, (i * 31) % 256))


def palette(depth: int) -> bytes:
    return chunk(b"PLTE", PLTE[: 3 * 2**depth])


def png(depth=8, color=RGB, interlaced=False, size=(21, 14), before=b"", after=b"", idat=None, end=chunk(b"IEND", b""), plte=None, pixels=None, ihdr=None):
    """A file out of parts; those not given are as they should be."""
    raw = data(samples(*size, depth, color), depth, interlaced) if pixels is None else pixels
    if plte is None:
        plte = palette(depth) if color == PALETTE else b""
    ihdr = chunk(b"IHDR", header(*size, depth, color, interlaced)) if ihdr is None else ihdr
    return SIGNATURE + ihdr + plte + before + (chunk(b"IDAT", zlib.compress(raw)) if idat is None else idat) + after + end


def variants():
    kinds = [(c, d) for c, depths in DEPTHS.items() for d in depths]
    for color, depth in kinds:
        name = f"color{color}_depth{depth}"
        key = {GREY: struct.pack(">H", samples(21, 14, depth, GREY)[9][12][0]), RGB: struct.pack(">HHH", *samples(21, 14, depth, RGB)[0][0])}.get(color)
        for interlaced in (False, True):
            suffix = "_interlaced" if interlaced else ""
            yield name + suffix, png(depth, color, interlaced)
            yield name + "_narrow" + suffix, png(depth, color, interlaced, size=(3, 9))
            yield name + "_pixel" + suffix, png(depth, color, interlaced, size=(1, 1))
            if key:
                yield name + "_keyed" + suffix, png(depth, color, interlaced, before=chunk(b"tRNS", key))
        raw = data(samples(21, 14, depth, color), depth)
        z = zlib.compress(raw)
        damages = {
            "text_badcrc": dict(before=chunk(b"tEXt", b"Comment\0hello", 1)),
            "text_badcrc_after": dict(after=chunk(b"tEXt", b"Comment\0hello", 1)),
            "no_iend": dict(end=b""),
            "iend_cut": dict(end=chunk(b"IEND", b"")[:6]),
            "iend_badcrc": dict(end=chunk(b"IEND", b"", 0)),
            "iend_data": dict(end=chunk(b"IEND", b"abc")),
            "surplus": dict(pixels=raw + b"surplus" * 50),
            "surplus_row": dict(pixels=raw + b"\0"),
            "surplus_much": dict(idat=chunk(b"IDAT", zlib.compress(raw + bytes(300_000)))),
            "trns_long": dict(before=chunk(b"tRNS", bytes(6) if color not in (GREY, RGB) else key + b"\0\0")),
            "trns_empty": dict(before=chunk(b"tRNS", b"")),
            "trns_good": dict(before=chunk(b"tRNS", key or bytes([255, 9]))),
            "trns_badcrc": dict(before=chunk(b"tRNS", key or bytes([255, 9]), 3)),
            "idat_badcrc": dict(idat=chunk(b"IDAT", z, 7)),
            "idat_split": dict(idat=b"".join(chunk(b"IDAT", z[i : i + 7]) for i in range(0, len(z), 7))),
            "idat_split_badcrc": dict(idat=b"".join(chunk(b"IDAT", z[i : i + 9], i) for i in range(0, len(z), 9))),
            "idat_empty_first": dict(idat=chunk(b"IDAT", b"") + chunk(b"IDAT", z)),
            "idat_empty_between": dict(idat=chunk(b"IDAT", z[:20]) + chunk(b"IDAT", b"") + chunk(b"IDAT", z[20:])),
            "idat_empty_after": dict(idat=chunk(b"IDAT", z) + chunk(b"IDAT", b"")),
            "idat_more_after": dict(idat=chunk(b"IDAT", z + b"more than that") + chunk(b"IDAT", b"rubbish")),
            "idat_parted": dict(idat=chunk(b"IDAT", z[:9]) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", z[9:])),
            "adler_missing": dict(idat=chunk(b"IDAT", z[:-4])),
            "adler_missing_end_too": dict(idat=chunk(b"IDAT", z[:-4])[:-4], end=b""),
            **{f"zlib_without_{n}": dict(idat=chunk(b"IDAT", z[:-n])) for n in range(1, 11)},
            **{f"file_without_{n}": dict(idat=chunk(b"IDAT", z)[: -4 - n], end=b"") for n in range(1, 11)},
            "zlib_split_without_5": dict(idat=b"".join(chunk(b"IDAT", z[:-5][i : i + 3]) for i in range(0, len(z) - 5, 3))),
            "stored_without_4": dict(idat=chunk(b"IDAT", zlib.compress(raw, 0)[:-4])),
            "stored_without_5": dict(idat=chunk(b"IDAT", zlib.compress(raw, 0)[:-5])),
            "adler_wrong": dict(idat=chunk(b"IDAT", z[:-4] + b"abcd")),
            "pixels_short": dict(pixels=raw[:-1]),
            "pixels_half": dict(pixels=raw[: len(raw) // 2]),
            "pixels_cut": dict(idat=chunk(b"IDAT", z)[: len(z) // 2], end=b""),
            "pixels_damaged": dict(idat=chunk(b"IDAT", z[:12] + bytes([z[12] ^ 255]) + z[13:])),
            "filter_unknown": dict(pixels=b"\x09" + raw[1:]),
            "trailer": dict(end=chunk(b"IEND", b"") + b"trailing rubbish" * 20),
            "zeros_behind": dict(end=chunk(b"IEND", b"") + bytes(512)),
            "rubbish_after": dict(after=b"\0\1\2\3\4\5\6\7" * 9, end=b""),
            "private_chunks": dict(before=chunk(b"vpAg", b"12345") + chunk(b"prVt", b""), after=chunk(b"zzZz", b"1")),
            "private_badcrc": dict(before=chunk(b"vpAg", b"12345", 9)),
            "length_beyond_after": dict(after=struct.pack(">I", 5000) + b"tEXtabc", end=b""),
            "length_beyond_before": dict(before=struct.pack(">I", 1 << 30) + b"tEXtabc"),
            "plte_surplus": dict(plte=chunk(b"PLTE", PLTE + b"x")),
            "plte_not_by_three": dict(plte=chunk(b"PLTE", PLTE[: 3 * 2 ** min(depth, 8)][:-2])),
            "plte_short": dict(plte=chunk(b"PLTE", PLTE[:6])),
            "plte_empty": dict(plte=chunk(b"PLTE", b"")),
            "plte_badcrc": dict(plte=chunk(b"PLTE", PLTE[:6], 5)),
            "plte_missing": dict(plte=b""),
            "plte_after": dict(plte=b"", after=chunk(b"PLTE", PLTE[:6])),
            "trns_before_plte": dict(plte=chunk(b"tRNS", key or bytes([0, 99])) + palette(min(depth, 8))),
            "trns_after": dict(after=chunk(b"tRNS", key or bytes([0, 99]))),
            "gama_short": dict(before=chunk(b"gAMA", b"\0")),
            "phys_short": dict(before=chunk(b"pHYs", b"\0\0")),
            "iccp_damaged": dict(before=chunk(b"iCCP", b"name\0\0not compressed")),
            "iccp_method": dict(before=chunk(b"iCCP", b"name\0\x07not compressed")),
            "srgb_empty": dict(before=chunk(b"sRGB", b"")),
            "ihdr_badcrc": dict(ihdr=chunk(b"IHDR", header(21, 14, depth, color), 1)),
            "ihdr_long": dict(ihdr=chunk(b"IHDR", header(21, 14, depth, color) + b"xy")),
            "ihdr_short": dict(ihdr=chunk(b"IHDR", header(21, 14, depth, color)[:12])),
            "ihdr_method": dict(ihdr=chunk(b"IHDR", header(21, 14, depth, color)[:10] + b"\1\0\0")),
            "ihdr_filter": dict(ihdr=chunk(b"IHDR", header(21, 14, depth, color)[:11] + b"\1\0")),
            "ihdr_twice": dict(before=chunk(b"IHDR", header(21, 14, depth, color))),
            "apng": dict(before=chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 21, 14, 0, 0, 1, 10, 0, 0))),
        }  # fmt: skip
        if (color, depth) in ((RGB, 8), (RGBA, 8), (PALETTE, 8), (PALETTE, 2), (GREY, 8), (GREY_ALPHA, 8), (RGBA, 16), (GREY_ALPHA, 16), (GREY, 1)):
            for damage, parts in damages.items():
                yield f"{name}_{damage}", png(depth, color, **parts)
    for color, depth, interlaced in ((RGB, 8, False), (RGB, 8, True), (GREY, 8, False), (PALETTE, 4, False), (GREY, 1, False), (RGBA, 16, True)):
        for drawn in (True, False):
            raw = data(samples(61, 45, depth, color), depth, interlaced) if drawn else bytes(len(data(samples(61, 45, depth, color), depth, interlaced)))
            z = zlib.compress(raw)
            name = f"large_color{color}_depth{depth}{'_interlaced' * interlaced}{'_black' * (not drawn)}"
            yield name, png(depth, color, interlaced, (61, 45), idat=chunk(b"IDAT", z))
            for n in range(4, 11):
                yield f"{name}_without{n}", png(depth, color, interlaced, (61, 45), idat=chunk(b"IDAT", z[:-n]))
    alphas = bytes(range(0, 256, 3))
    yield "palette_alpha", png(8, PALETTE, before=chunk(b"tRNS", alphas))
    yield "palette_alpha_interlaced", png(8, PALETTE, True, before=chunk(b"tRNS", alphas))
    yield "palette_alpha_beyond", png(2, PALETTE, plte=chunk(b"PLTE", PLTE[:6]), before=chunk(b"tRNS", bytes([9, 99, 128])))
    yield "palette_alpha_256", png(8, PALETTE, before=chunk(b"tRNS", bytes(range(256))))
    yield "palette_alpha_257", png(8, PALETTE, before=chunk(b"tRNS", bytes(range(256)) + b"\7"))
    yield "palette_one_transparent", png(4, PALETTE, before=chunk(b"tRNS", b"\xff\xff\0"))
    yield "palette_777", png(8, PALETTE, plte=chunk(b"PLTE", PLTE + bytes(9)))
    yield "keyed_short", png(8, RGB, before=chunk(b"tRNS", b"\0\1"))
    for number in (0, 1, 2, 3, 255, 256):
        yield f"keyed_{number}_of_1_bit", png(1, GREY, before=chunk(b"tRNS", struct.pack(">H", number)))
        yield f"keyed_{number}_of_8_bits", png(8, GREY, before=chunk(b"tRNS", struct.pack(">H", number + 4 * (number < 4))))
    yield "keyed_beyond_of_rgb", png(8, RGB, before=chunk(b"tRNS", struct.pack(">HHH", *(256 + v for v in samples(21, 14, 8, RGB)[0][0]))))
    yield "depth3", png(8, GREY, ihdr=chunk(b"IHDR", header(21, 14, 3, GREY)))
    yield "palette_depth16", png(8, PALETTE, ihdr=chunk(b"IHDR", header(21, 14, 16, PALETTE)))
    yield "color5", png(8, RGB, ihdr=chunk(b"IHDR", header(21, 14, 8, 5)))
    yield "width0", png(8, RGB, ihdr=chunk(b"IHDR", header(0, 14, 8, RGB)))
    bare = zlib.compressobj(9, zlib.DEFLATED, -15)
    bare = bare.compress(data(samples(21, 14, 8, RGBA), 8)) + bare.flush()
    yield "cgbi", png(8, RGBA, ihdr=chunk(b"CgBI", b"\x50\0\x20\2") + chunk(b"IHDR", header(21, 14, 8, RGBA)), idat=chunk(b"IDAT", bare))
    yield "cgbi_of_zlib", png(8, RGBA, ihdr=chunk(b"CgBI", b"\x50\0\x20\2") + chunk(b"IHDR", header(21, 14, 8, RGBA)))
    yield "no_idat", png(8, RGB, idat=b"")
    yield "window_small", png(8, RGB, idat=chunk(b"IDAT", _small_window(data(samples(21, 14, 8, RGB), 8))))


def _small_window(raw: bytes) -> bytes:
    z = zlib.compressobj(9, zlib.DEFLATED, 9)
    return z.compress(raw) + z.flush()


def turned():
    """Orientation in the places that a PNG has for it."""
    turn, other = exif.block(">", [exif.orientation(">", number=6)]), exif.block("<", [exif.orientation("<", number=3)])
    profile = b"\nexif\n      " + str(len(turn)).encode() + b"\n" + (b"Exif\0\0" + turn).hex().encode() + b"\n"
    key = b"Raw profile type exif"
    itxt = b"XML:com.adobe.xmp\0%b\0\0\0"
    places = {
        "exif": (chunk(b"eXIf", turn), b""),
        "exif_head": (chunk(b"eXIf", b"Exif\0\0" + turn), b""),
        "exif_after": (b"", chunk(b"eXIf", turn)),
        "exif_badcrc": (chunk(b"eXIf", turn, 4), b""),
        "exif_badcrc_after": (b"", chunk(b"eXIf", turn, 4)),
        "exif_twice": (chunk(b"eXIf", other) + chunk(b"eXIf", turn), b""),
        "exif_before_and_after": (chunk(b"eXIf", other), chunk(b"eXIf", turn)),
        "exif_empty": (chunk(b"eXIf", b""), b""),
        "raw_profile_ztxt": (chunk(b"zTXt", key + b"\0\0" + zlib.compress(profile)), b""),
        "raw_profile_text": (chunk(b"tEXt", key + b"\0" + profile), b""),
        "raw_profile_itxt": (chunk(b"iTXt", key + b"\0\0\0\0\0" + profile), b""),
        "raw_profile_after": (b"", chunk(b"zTXt", key + b"\0\0" + zlib.compress(profile))),
        "raw_profile_and_exif": (chunk(b"tEXt", key + b"\0" + profile) + chunk(b"eXIf", other), b""),
        "raw_profile_app1": (chunk(b"tEXt", b"Raw profile type APP1\0" + profile), b""),
        "raw_profile_no_hex": (chunk(b"tEXt", key + b"\0\nexif\n 4\nzzzz\n"), b""),
        "raw_profile_short": (chunk(b"tEXt", key + b"\0exif"), b""),
        "raw_profile_damaged": (chunk(b"zTXt", key + b"\0\0" + b"no zlib"), b""),
        "xmp": (chunk(b"iTXt", itxt % b"\0" + exif.xmp(8)), b""),
        "xmp_element": (chunk(b"iTXt", itxt % b"\0" + exif.xmp(8, True)), b""),
        "xmp_compressed": (chunk(b"iTXt", itxt % b"\1" + zlib.compress(exif.xmp(8))), b""),
        "xmp_after": (b"", chunk(b"iTXt", itxt % b"\0" + exif.xmp(8))),
        "xmp_text": (chunk(b"tEXt", b"XML:com.adobe.xmp\0" + exif.xmp(8)), b""),
        "xmp_latin1": (chunk(b"iTXt", itxt % b"\0" + b"\xe9" + exif.xmp(8)), b""),
        "xmp_9": (chunk(b"iTXt", itxt % b"\0" + exif.xmp(9)), b""),
        "xmp_and_exif": (chunk(b"iTXt", itxt % b"\0" + exif.xmp(8)) + chunk(b"eXIf", turn), b""),
        "xmp_and_exif_of_text": (chunk(b"iTXt", itxt % b"\0" + exif.xmp(8)) + chunk(b"eXIf", exif.block("<", [exif.orientation("<", 2)])), b""),
        "xmp_and_exif_without": (chunk(b"iTXt", itxt % b"\0" + exif.xmp(8)) + chunk(b"eXIf", exif.block("<", [])), b""),
        "exif_without_end": (b"", chunk(b"eXIf", turn)[:-3]),
    }  # fmt: skip
    for name, (before, after) in places.items():
        yield name, png(8, RGB, before=before, after=after, end=b"" if name.endswith("end") else chunk(b"IEND", b""))
