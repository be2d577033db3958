"""EXIF blocks whose one matter is Orientation."""

import struct

ORIENTATION, MAKE, IMAGE_WIDTH = 0x0112, 0x010F, 0x0100
# TIFF's types: number to (letter of struct, bytes); 14, 15, 17 and 18 exist or not by the book, 129 is EXIF 3.0's UTF-8
TYPES = {
    0: ("B", 1), 1: ("B", 1), 2: ("c", 1), 3: ("H", 2), 4: ("L", 4), 5: ("LL", 8), 6: ("b", 1), 7: ("B", 1), 8: ("h", 2),
    9: ("l", 4), 10: ("ll", 8), 11: ("f", 4), 12: ("d", 8), 13: ("L", 4), 14: ("L", 4), 16: ("Q", 8), 17: ("q", 8), 129: ("B", 1),
}  # fmt: skip
HEADS = {"<": b"II*\0", ">": b"MM\0*"}


def value(order: str, kind: int, number: int) -> bytes:
    letter = TYPES[kind][0]
    if letter == "c":
        return str(number).encode()
    return struct.pack(order + letter, *([number, 1] if len(letter) == 2 else [number]))


def entry(order: str, tag: int, kind: int, count: int, data: bytes) -> tuple:
    return order, tag, kind, count, data


def orientation(order: str, kind: int = 3, count: int = 1, number: int = 6) -> tuple:
    """An entry of count values, the first of which is number and the others 3."""
    values = [number, 3, 3, 3][:count]
    return entry(order, ORIENTATION, kind, count, b"".join(value(order, kind, v) for v in values))


def block(order: str, entries: list, at: int = 8, head: bytes | None = None, count: int | None = None, cut: int | None = None) -> bytes:
    """A TIFF file of one directory at an offset. Data of bytes go where there is room, of an int are an offset as it is."""
    out = (head or HEADS[order]) + struct.pack(order + "L", at) + bytes(max(at - 8, 0))
    behind = at + 2 + 12 * len(entries) + 4
    out += struct.pack(order + "H", len(entries) if count is None else count)
    tail = b""
    for _, tag, kind, number, data in entries:
        if isinstance(data, int):
            field = struct.pack(order + "L", data)
        elif len(data) <= 4:
            field = data.ljust(4, b"\0")
        else:
            field = struct.pack(order + "L", behind + len(tail))
            tail += data + b"\0" * (len(data) % 2)
        out += struct.pack(order + "HHL", tag, kind, number) + field
    return (out + bytes(4) + tail)[:cut]


def blocks():
    """name, block for the whole grid of types, counts, byte orders and places."""
    for order, word in (("<", "little"), (">", "big")):
        before = {
            "alone": [],
            "after_make": [entry(order, MAKE, 2, 9, b"A camera\0")],
            "after_type13": [entry(order, IMAGE_WIDTH, 13, 1, struct.pack(order + "L", 26))],
            "after_type129": [entry(order, MAKE, 129, 9, "Kamerä\0\0".encode())],
            "after_unknown_type": [entry(order, MAKE, 99, 1, b"\0\0\0\0")],
            "after_no_values": [entry(order, MAKE, 2, 0, b"")],
            "after_offset_beyond": [entry(order, MAKE, 2, 9, 60000)],
            "after_offset_at_end": [entry(order, MAKE, 2, 9, 40)],
            "after_huge_count": [entry(order, MAKE, 2, 0xFFFFFFFF, 8)],
            "after_huge_rationals": [entry(order, MAKE, 5, 0x20000001, 8)],
        }
        for kind in TYPES:
            for count in range(4):
                yield f"type{kind}_count{count}_{word}", block(order, [orientation(order, kind, count)])
            for place, others in before.items():
                yield f"type{kind}_{place}_{word}", block(order, [*others, orientation(order, kind)])
        for number in range(10):
            yield f"value{number}_{word}", block(order, [orientation(order, 3, 1, number)])
        yield f"value256_{word}", block(order, [orientation(order, 3, 1, 256 + 6)])
        yield f"value_negative_{word}", block(order, [orientation(order, 9, 1, -6)])
        yield f"value_half_{word}", block(order, [entry(order, ORIENTATION, 5, 1, struct.pack(order + "LL", 13, 2))])
        yield f"value_12_by_2_{word}", block(order, [entry(order, ORIENTATION, 5, 1, struct.pack(order + "LL", 12, 2))])
        yield f"value_6_by_0_{word}", block(order, [entry(order, ORIENTATION, 5, 1, struct.pack(order + "LL", 6, 0))])
        yield f"value_0_by_0_{word}", block(order, [entry(order, ORIENTATION, 10, 1, struct.pack(order + "LL", 0, 0))])
        yield f"value_6.5_{word}", block(order, [entry(order, ORIENTATION, 11, 1, struct.pack(order + "f", 6.5))])
        yield f"value_nan_{word}", block(order, [entry(order, ORIENTATION, 12, 1, struct.pack(order + "d", float("nan")))])
        yield f"directory_far_{word}", block(order, [orientation(order)], at=300)
        yield f"directory_odd_{word}", block(order, [orientation(order)], at=9)
        yield f"directory_beyond_{word}", block(order, [orientation(order)], at=8)[:4] + struct.pack(order + "L", 9999) + bytes(40)
        yield f"twice_{word}", block(order, [orientation(order, number=6), orientation(order, number=3)])
        yield f"twice_first_empty_{word}", block(order, [orientation(order, count=0), orientation(order, number=8)])
        yield f"twice_first_unknown_{word}", block(order, [orientation(order, 129), orientation(order, number=8)])
        yield f"twice_first_text_{word}", block(order, [orientation(order, 2), orientation(order, number=8)])
        lost = entry(order, MAKE, 2, 900, 30)  # of a tag that is there twice, more than the block has
        yield f"make_twice_second_beyond_{word}", block(order, [entry(order, MAKE, 2, 4, b"abc\0"), entry(order, MAKE, 2, 9, 60000), orientation(order)])
        yield f"make_twice_first_beyond_{word}", block(order, [entry(order, MAKE, 2, 9, 60000), entry(order, MAKE, 2, 4, b"abc\0"), orientation(order)])
        yield f"make_twice_second_huge_{word}", block(order, [entry(order, MAKE, 2, 4, b"abc\0"), lost, orientation(order)])
        yield f"make_twice_first_empty_{word}", block(order, [entry(order, MAKE, 2, 0, b""), entry(order, MAKE, 2, 9, 60000), orientation(order)])
        yield f"make_twice_first_unknown_{word}", block(order, [entry(order, MAKE, 129, 1, b"a"), entry(order, MAKE, 2, 9, 60000), orientation(order)])
        yield f"make_twice_first_huge_{word}", block(order, [lost, entry(order, MAKE, 2, 9, 60000), orientation(order)])
        yield f"make_twice_cut_{word}", block(order, [entry(order, MAKE, 2, 4, b"abc\0"), entry(order, MAKE, 2, 12, 64), orientation(order)])
        yield f"more_entries_than_there_are_{word}", block(order, [orientation(order)], count=40)
        yield f"fewer_entries_{word}", block(order, [entry(order, MAKE, 3, 1, b"\0\1"), orientation(order)], count=1)
        yield f"no_entries_{word}", block(order, [])
        yield f"cut_after_entry_{word}", block(order, [orientation(order)], cut=22)
        yield f"cut_in_entry_{word}", block(order, [orientation(order)], cut=20)
        yield f"swapped_head_{word}", block(order, [orientation(order)], head={"<": b"II\0*", ">": b"MM*\0"}[order])
        yield f"exif_head_twice_{word}", b"Exif\0\0" + block(order, [orientation(order)])
        yield f"bigtiff_{word}", block(order, [orientation(order)], head={"<": b"II+\0", ">": b"MM\0+"}[order])
    yield "empty", b""
    yield "short", b"II*\0"
    yield "text", b"not a TIFF file at all, but long"
    yield "wrong_magic", b"XX*\0" + block("<", [orientation("<")])[4:]


def xmp(number: int | str, element: bool = False) -> bytes:
    if element:
        return f"<x:xmpmeta><rdf:Description><tiff:Orientation>{number}</tiff:Orientation></rdf:Description></x:xmpmeta>".encode()
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{number}"/></x:xmpmeta>'.encode()
