"""GIF, block by block."""

import struct

from drawing import draw, saved

COLORS = bytes(v for i in range(256) for v in ((i * 7 + 3) % 256, 255 - i, (i * 31) % 256))
GREYS = bytes(v for i in range(256) for v in (i, i, i))
TRANSPARENT = b"!\xf9\4\1\0\0%c\0"


def codes(indices: list[int], bits: int, end: bool = True, clear: bool = True) -> bytes:
    """LZW of single pixels only: the table is cleared before its codes grow longer."""
    width, start = bits + 1, 1 << bits
    out = [start] if clear else []
    for n, index in enumerate(indices):
        if n and n % max(start - 2, 1) == 0:
            out.append(start)
        out.append(index)
    total = 0
    for n, code in enumerate(out + [start + 1] * end):
        total |= code << (n * width)
    return total.to_bytes((width * (len(out) + end) + 7) // 8, "little")


def blocks(data: bytes, size: int = 255, end: bytes = b"\0") -> bytes:
    return b"".join(bytes([len(data[i : i + size])]) + data[i : i + size] for i in range(0, len(data), size)) + end


def gif(screen=(16, 12), frame=(0, 0, 16, 12), bits=4, table=COLORS[: 3 * 16], local=b"", before=b"", data=None, after=b"", end=b";", interlaced=False, indices=None):
    """A file out of parts; those not given are as they should be."""
    flags = lambda t: 0x80 | ((len(t) // 3).bit_length() - 2) if t else 0  # noqa: E731
    if indices is None:
        indices = [(x * y + 3 * x + y // 2) % 2**bits for y in range(frame[3]) for x in range(frame[2])]
    if data is None:
        data = blocks(codes(indices, bits))
    out = b"GIF89a" + struct.pack("<HHBBB", *screen, flags(table), 0, 0) + table + before
    out += b"," + struct.pack("<HHHHB", *frame, flags(local) | 0x40 * interlaced) + local + bytes([bits]) + data
    return out + after + end


def variants():
    image = draw(30, 21)
    for colors in (2, 3, 7, 16, 40, 256):
        palette = image.quantize(colors)
        yield f"colors{colors}", saved(palette, "GIF")
        yield f"colors{colors}_transparent", saved(palette, "GIF", transparency=1)
    yield "interlaced", saved(image.quantize(60), "GIF", interlace=1)
    yield "grey", saved(image.convert("L"), "GIF")
    yield "animated", saved(image.quantize(40), "GIF", save_all=True, append_images=[draw(30, 21).rotate(180).quantize(40)], duration=90)
    yield "comment", saved(image.quantize(9), "GIF", comment=b"a comment " * 60)
    indices = [(x + 2 * y) % 16 for y in range(12) for x in range(16)]
    full = codes(indices, 4)
    other = b"," + struct.pack("<HHHHB", 0, 0, 16, 12, 0) + b"\4" + blocks(codes([5] * 192, 4))
    parts = {
        "control": {},
        "frame_wider": dict(screen=(9, 12)),
        "frame_higher": dict(screen=(16, 7)),
        "frame_beyond": dict(screen=(10, 10), frame=(3, 4, 16, 12)),
        "frame_beyond_all": dict(screen=(3, 3), frame=(5, 6, 16, 12)),
        "screen_0": dict(screen=(0, 0)),
        "screen_0_wide": dict(screen=(0, 12)),
        "frame_inside": dict(screen=(30, 24), frame=(5, 7, 16, 12)),
        "frame_inside_transparent": dict(screen=(30, 24), frame=(5, 7, 16, 12), before=TRANSPARENT % 3),
        "frame_inside_grey": dict(screen=(30, 24), frame=(5, 7, 16, 12), table=b""),
        "frame_inside_interlaced": dict(screen=(30, 24), frame=(5, 7, 16, 12), interlaced=True),
        "frame_0": dict(frame=(0, 0, 0, 0)),
        "frame_0_high": dict(frame=(0, 0, 16, 0)),
        "interlaced_odd": dict(screen=(5, 3), frame=(0, 0, 5, 3), interlaced=True),
        "interlaced_row": dict(screen=(5, 1), frame=(0, 0, 5, 1), interlaced=True),
        "no_palette": dict(table=b""),
        "no_palette_transparent": dict(table=b"", before=TRANSPARENT % 5),
        "grey_palette": dict(table=GREYS[: 3 * 16]),
        "grey_palette_short": dict(table=GREYS[: 3 * 4]),
        "local_palette": dict(local=COLORS[48:96]),
        "local_only": dict(table=b"", local=COLORS[48:96]),
        "local_grey": dict(local=GREYS[: 3 * 8]),
        "index_beyond": dict(table=COLORS[: 3 * 8]),
        "index_beyond_by_far": dict(table=COLORS[:6]),
        "index_beyond_transparent": dict(table=COLORS[:6], before=TRANSPARENT % 9),
        "index_beyond_local": dict(local=COLORS[: 3 * 4]),
        "transparent_beyond": dict(before=TRANSPARENT % 200),
        "transparent_first": dict(before=TRANSPARENT % 0),
        "control_twice": dict(before=TRANSPARENT % 3 + b"!\xf9\4\0\0\0\0\0"),
        "control_short": dict(before=b"!\xf9\2\1\0\0"),
        "control_long": dict(before=b"!\xf9\6\1\0\0\3\0\0\0"),
        "control_split": dict(before=b"!\xf9\4\1\0\0\3\2ab\0"),
        "extension_unknown": dict(before=b"!\x99\3abc\0"),
        "extension_application": dict(before=b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0"),
        "extension_application_10": dict(before=b"!\xff\x0aNETSCAPE2.\3\1\0\0\0"),
        "extension_text": dict(before=b"!\x01\x0c" + bytes(12) + b"\5hello\0"),
        "extension_empty": dict(before=b"!\xfe\0"),
        "rubbish_between": dict(before=b"\0\0xyz\0"),
        "surplus": dict(data=blocks(codes(indices + [7] * 90, 4))),
        "surplus_blocks": dict(data=blocks(full, end=b"") + blocks(b"rubbish" * 60)),
        "surplus_no_end": dict(data=blocks(codes(indices + [7] * 90, 4, end=False))),
        "no_end_code": dict(data=blocks(codes(indices, 4, end=False))),
        "no_terminator": dict(data=blocks(codes(indices, 4), end=b"")),
        "no_terminator_no_trailer": dict(data=blocks(codes(indices, 4), end=b""), end=b""),
        "no_trailer": dict(end=b""),
        "no_trailer_two_frames": dict(after=other, end=b""),
        "rubbish_behind": dict(after=b"\1\2\3rubbish"),
        "behind_trailer": dict(end=b";" + b"rubbish" * 30),
        "blocks_of_1": dict(data=blocks(full, 1)),
        "blocks_of_7": dict(data=blocks(full, 7)),
        "empty_block_first": dict(data=b"\0" + blocks(full)),
        "empty_block_second": dict(data=blocks(full[:40], end=b"") + b"\0" + blocks(full[40:])),
        "empty_blocks": dict(data=b"\0\0" + b"".join(blocks(full[i : i + 9]) for i in range(0, len(full), 9)) + b"\0\0"),
        "empty_block_last": dict(data=blocks(full[:-1]) + blocks(full[-1:])),
        "empty_block_interlaced": dict(data=b"\0" + blocks(full), interlaced=True),
        "empty_block_two_frames": dict(data=b"\0" + blocks(full), after=other),
        "empty_block_no_trailer": dict(data=b"\0" + blocks(full, end=b""), end=b""),
        "empty_block_before_44": dict(data=b"\0" + blocks(full, 44)),
        "empty_block_before_33": dict(data=blocks(full[:50]) + blocks(full[50:], 33)),
        "empty_block_before_59": dict(data=b"\0" + blocks(full, 59)),
        "empty_block_pixels_short": dict(data=b"\0" + blocks(codes(indices[:90], 4, end=False))),
        "empty_block_pixels_short_two_frames": dict(data=b"\0" + blocks(codes(indices[:90], 4, end=False)), after=other),
        "empty_block_pixels_short_extension": dict(data=blocks(codes(indices[:90], 4, end=False)), after=b"!\xfe\5hello\0" + other),
        "empty_block_extension_then_data": dict(data=b"\0!\xfe\5hello\0" + blocks(full)),
        "pixels_short_two_frames": dict(data=blocks(codes(indices[:90], 4)), after=other),
        "pixels_none_two_frames": dict(data=b"\0", after=other),
        "no_clear_code": dict(data=blocks(codes(indices[:8], 4, clear=False)), screen=(4, 2), frame=(0, 0, 4, 2)),
        "code_size_1": dict(bits=1),
        "code_size_2": dict(bits=2),
        "code_size_8": dict(bits=8, table=COLORS),
        "code_size_9": dict(bits=9, table=COLORS, indices=indices),
        "code_size_12": dict(bits=12, table=COLORS, indices=indices),
        "code_size_13": dict(bits=13, table=COLORS, indices=indices),
        "code_size_0": dict(bits=0, data=blocks(full)),
        "pixels_short": dict(data=blocks(codes(indices[:-1], 4))),
        "pixels_half": dict(data=blocks(codes(indices[:90], 4, end=False))),
        "pixels_cut": dict(data=blocks(full)[:50], end=b""),
        "pixels_none": dict(data=b"\0"),
        "code_invalid": dict(data=blocks(b"\x10\x10\xff\xff" + full[4:])),
        "two_frames": dict(after=other),
        "87a": {},
    }  # fmt: skip
    for name, part in parts.items():
        file = gif(**part)
        yield name, file.replace(b"GIF89a", b"GIF87a") if name == "87a" else file
    yield "no_frame", b"GIF89a" + struct.pack("<HHBBB", 16, 12, 0, 0, 0) + b";"
    yield "palette_cut", b"GIF89a" + struct.pack("<HHBBB", 16, 12, 0x87, 0, 0) + COLORS[:60]
    yield "header_only", b"GIF89a" + bytes(7)
