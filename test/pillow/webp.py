"""WebP, chunk by chunk."""

import struct

import exif
from drawing import draw, saved

ANIMATION, XMP, EXIF, ALPHA, ICC = 2, 4, 8, 16, 32


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(data) if size is None else size) + data + b"\0" * (len(data) % 2)


def riff(*chunks: bytes, size: int | None = None, behind: bytes = b"") -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body + behind


def u24(n: int) -> bytes:
    return struct.pack("<I", n)[:3]


def extended(flags: int, width: int, height: int) -> bytes:
    return chunk(b"VP8X", bytes([flags, 0, 0, 0]) + u24(width - 1) + u24(height - 1))


def frame(chunks: bytes, x: int, y: int, width: int, height: int, flags: int = 0) -> bytes:
    return chunk(b"ANMF", u24(x // 2) + u24(y // 2) + u24(width - 1) + u24(height - 1) + u24(90) + bytes([flags]) + chunks)


ANIM = chunk(b"ANIM", b"\x40\x80\xc0\xff\0\0")


def chunks(file: bytes) -> dict[bytes, bytes]:
    """The chunks of a file, by name, each as it is."""
    out, at = {}, 12
    while at + 8 <= len(file):
        size = struct.unpack("<I", file[at + 4 : at + 8])[0]
        end = at + 8 + size + size % 2
        out[file[at : at + 4]], at = file[at:end], end
    return out


def variants():
    w, h = 22, 15
    image, alpha = draw(w, h), draw(w, h, "RGBA")
    lossy = chunks(saved(image, "WEBP", quality=90))[b"VP8 "]
    lossless = chunks(saved(image, "WEBP", lossless=True))[b"VP8L"]
    clear = chunks(saved(alpha, "WEBP", lossless=True, exact=True))[b"VP8L"]
    mixed = chunks(saved(alpha, "WEBP", quality=90, exact=True))
    alph, under = mixed[b"ALPH"], mixed[b"VP8 "]
    opaque_flag = clear[:12] + bytes([clear[12] & ~16]) + clear[13:]  # says that its alpha is not meant
    for quality in (5, 40, 75, 90, 100):
        yield f"lossy{quality}", saved(image, "WEBP", quality=quality)
        yield f"lossy{quality}_alpha", saved(alpha, "WEBP", quality=quality, exact=True)
        yield f"lossy{quality}_alpha{quality}", saved(alpha, "WEBP", quality=quality, alpha_quality=quality, exact=True)
    for size in ((1, 1), (2, 3), (17, 16), (16, 33)):
        for mode in ("RGB", "RGBA"):
            yield f"lossless_{mode}_{size[0]}x{size[1]}", saved(draw(*size, mode), "WEBP", lossless=True, exact=True)
            yield f"lossy_{mode}_{size[0]}x{size[1]}", saved(draw(*size, mode), "WEBP", quality=90, exact=True)
    second = draw(w, h).rotate(180)
    for kind, options in (("lossy", {"quality": 90}), ("lossless", {"lossless": True})):
        yield f"animated_{kind}", saved(image, "WEBP", save_all=True, append_images=[second], **options)
        yield f"animated_{kind}_alpha", saved(alpha, "WEBP", save_all=True, append_images=[second.convert("RGBA")], **options)
    turn = chunk(b"EXIF", exif.block("<", [exif.orientation("<")]))
    headed = chunk(b"EXIF", b"Exif\0\0" + exif.block(">", [exif.orientation(">")]))
    odd = chunk(b"odd ", b"12345")
    plain, x = extended(0, w, h), extended
    files = {
        "bare_lossy": riff(lossy),
        "bare_lossless": riff(lossless),
        "bare_lossless_alpha": riff(clear),
        "bare_lossless_alpha_not_meant": riff(opaque_flag),
        "extended_lossy": riff(plain, lossy),
        "extended_lossless": riff(plain, lossless),
        "extended_lossless_alpha": riff(x(ALPHA, w, h), clear),
        "extended_lossless_alpha_no_flag": riff(plain, clear),
        "extended_lossless_alpha_not_meant": riff(x(ALPHA, w, h), opaque_flag),
        "alpha": riff(x(ALPHA, w, h), alph, under),
        "alpha_no_flag": riff(plain, alph, under),
        "alpha_flag_no_alph": riff(x(ALPHA, w, h), lossy),
        "alpha_left_out": riff(plain, under),
        "alpha_behind": riff(x(ALPHA, w, h), under, alph),
        "alpha_twice": riff(x(ALPHA, w, h), alph, alph, under),
        "alpha_cut": riff(x(ALPHA, w, h), chunk(b"ALPH", alph[8:-6]), under),
        "alpha_damaged": riff(x(ALPHA, w, h), chunk(b"ALPH", b"\1\xff\xff\xff"), under),
        "alpha_method": riff(x(ALPHA, w, h), chunk(b"ALPH", b"\3" + bytes(w * h)), under),
        "alpha_empty": riff(x(ALPHA, w, h), chunk(b"ALPH", b""), under),
        "alpha_raw": riff(x(ALPHA, w, h), chunk(b"ALPH", b"\0" + bytes(i % 256 for i in range(w * h))), under),
        "alpha_raw_filters1": riff(x(ALPHA, w, h), chunk(b"ALPH", b"\4" + bytes(i % 7 for i in range(w * h))), under),
        "alpha_raw_filters2": riff(x(ALPHA, w, h), chunk(b"ALPH", b"\x08" + bytes(i % 7 for i in range(w * h))), under),
        "alpha_raw_filters3": riff(x(ALPHA, w, h), chunk(b"ALPH", b"\x0c" + bytes(i % 7 for i in range(w * h))), under),
        "alpha_without_extension": riff(alph, under),
        "trailer": riff(lossy, behind=b"rubbish" * 9),
        "trailer_lossless": riff(lossless, behind=b"rubbish" * 9),
        "trailer_extended": riff(plain, lossy, behind=b"rubbish" * 9),
        "zeros_behind": riff(lossy, behind=bytes(100)),
        "riff_size_0": riff(lossy, size=0),
        "riff_size_small": riff(lossy, size=40),
        "riff_size_less_1": riff(lossy, size=4 + len(lossy) - 1),
        "riff_size_large": riff(lossy, size=4 + len(lossy) + 50),
        "riff_size_huge": riff(lossy, size=0xFFFFFFF0),
        "riff_size_odd_chunk": riff(lossy, size=4 + len(lossy) + 1),
        "chunk_size_large": riff(lossy[:4] + struct.pack("<I", len(lossy)) + lossy[8:]),
        "pad_missing": riff(plain, lossy, chunk(b"junk", b"123")[:-1]),
        "unknown_before": riff(plain, odd, lossy),
        "unknown_behind": riff(plain, lossy, odd),
        "unknown_first": riff(odd, lossy),
        "unknown_behind_bare": riff(lossy, odd),
        "unknown_length_beyond": riff(plain, lossy, chunk(b"junk", b"12", 900)),
        "icc_no_flag": riff(plain, chunk(b"ICCP", b"no profile"), lossy),
        "icc_damaged": riff(x(ICC, w, h), chunk(b"ICCP", b"no profile"), lossy),
        "extended_twice": riff(plain, plain, lossy),
        "extended_behind": riff(lossy, plain),
        "extended_long": riff(chunk(b"VP8X", plain[8:] + b"1234"), lossy),
        "extended_short": riff(chunk(b"VP8X", plain[8:16]), lossy),
        "canvas_larger": riff(x(0, w + 4, h), lossy),
        "canvas_smaller": riff(x(0, w - 4, h), lossy),
        "canvas_larger_lossless": riff(x(0, w + 4, h), lossless),
        "two_pictures": riff(plain, lossy, lossless),
        "pixels_cut": riff(lossy)[:-60],
        "pixels_cut_lossless": riff(lossless)[:-30],
        "pixels_cut_1": riff(lossy)[:-2],
        "chunk_cut": riff(chunk(lossy[:4], lossy[8:-60])),
        "chunk_cut_lossless": riff(chunk(lossless[:4], lossless[8:-30])),
        "pixels_none": riff(plain),
        "pixels_empty": riff(chunk(b"VP8 ", b"")),
        "header_only": riff(),
        "exif": riff(x(EXIF, w, h), lossy, turn),
        "exif_lossless": riff(x(EXIF, w, h), lossless, turn),
        "exif_head": riff(x(EXIF, w, h), lossy, headed),
        "exif_before": riff(x(EXIF, w, h), turn, lossy),
        "exif_after_odd": riff(x(EXIF, w, h), lossy, odd, turn),
        "exif_no_flag": riff(plain, lossy, turn),
        "exif_not_extended": riff(lossy, turn),
        "exif_behind_riff": riff(x(EXIF, w, h), lossy, behind=turn),
        "exif_twice": riff(x(EXIF, w, h), lossy, turn, chunk(b"EXIF", exif.block("<", [exif.orientation("<", number=3)]))),
        "exif_cut": riff(x(EXIF, w, h), lossy, turn[:-6]),
        "exif_empty": riff(x(EXIF, w, h), lossy, chunk(b"EXIF", b"")),
        "xmp": riff(x(XMP, w, h), lossy, chunk(b"XMP ", exif.xmp(8))),
        "xmp_element": riff(x(XMP, w, h), lossy, chunk(b"XMP ", exif.xmp(8, True))),
        "xmp_no_flag": riff(plain, lossy, chunk(b"XMP ", exif.xmp(8))),
        "xmp_and_exif": riff(x(XMP | EXIF, w, h), lossy, turn, chunk(b"XMP ", exif.xmp(8))),
        "still_animation": riff(x(ANIMATION, w, h), ANIM, frame(lossy, 0, 0, w, h)),
        "animation_lossless": riff(x(ANIMATION, w, h), ANIM, frame(lossless, 0, 0, w, h)),
        "animation_offset": riff(x(ANIMATION, 40, 30), ANIM, frame(lossy, 6, 8, w, h)),
        "animation_offset_lossless": riff(x(ANIMATION, 40, 30), ANIM, frame(lossless, 6, 8, w, h)),
        "animation_offset_alpha": riff(x(ANIMATION | ALPHA, 40, 30), ANIM, frame(clear, 6, 8, w, h)),
        "animation_offset_alpha_no_flag": riff(x(ANIMATION, 40, 30), ANIM, frame(clear, 6, 8, w, h)),
        "animation_offset_alpha_not_meant": riff(x(ANIMATION | ALPHA, 40, 30), ANIM, frame(opaque_flag, 6, 8, w, h)),
        "animation_lossy_alpha": riff(x(ANIMATION | ALPHA, 40, 30), ANIM, frame(alph + under, 6, 8, w, h)),
        "animation_lossy_alpha_no_flag": riff(x(ANIMATION, 40, 30), ANIM, frame(alph + under, 6, 8, w, h)),
        "animation_alpha_flag_no_alph": riff(x(ANIMATION | ALPHA, 40, 30), ANIM, frame(lossy, 6, 8, w, h)),
        "animation_no_blend": riff(x(ANIMATION | ALPHA, 40, 30), ANIM, frame(clear, 6, 8, w, h, 2)),
        "animation_dispose": riff(x(ANIMATION | ALPHA, 40, 30), ANIM, frame(clear, 6, 8, w, h, 1), frame(lossy, 0, 0, w, h)),
        "animation_beyond": riff(x(ANIMATION, 24, 18), ANIM, frame(lossy, 6, 8, w, h)),
        "animation_frame_size": riff(x(ANIMATION, 40, 30), ANIM, frame(lossy, 0, 0, w - 2, h)),
        "animation_no_anim": riff(x(ANIMATION, w, h), frame(lossy, 0, 0, w, h)),
        "animation_no_flag": riff(plain, ANIM, frame(lossy, 0, 0, w, h)),
        "animation_flag_still": riff(x(ANIMATION, w, h), lossy),
        "animation_flag_anim_still": riff(x(ANIMATION, w, h), ANIM, lossy),
        "animation_no_frames": riff(x(ANIMATION, w, h), ANIM),
        "animation_frame_empty": riff(x(ANIMATION, w, h), ANIM, frame(b"", 0, 0, w, h)),
        "animation_unknown_in_frame": riff(x(ANIMATION, w, h), ANIM, frame(lossy + odd, 0, 0, w, h)),
        "animation_second_damaged": riff(x(ANIMATION, w, h), ANIM, frame(lossy, 0, 0, w, h), frame(lossy[:40], 0, 0, w, h)),
        "animation_second_cut": riff(x(ANIMATION, w, h), ANIM, frame(lossy, 0, 0, w, h), frame(lossy, 0, 0, w, h))[:-50],
        "animation_first_cut": riff(x(ANIMATION, w, h), ANIM, frame(lossy, 0, 0, w, h))[:-50],
        "animation_exif": riff(x(ANIMATION | EXIF, w, h), ANIM, frame(lossy, 0, 0, w, h), turn),
        "animation_trailer": riff(x(ANIMATION, w, h), ANIM, frame(lossy, 0, 0, w, h), behind=b"rubbish" * 9),
    }  # fmt: skip
    yield from files.items()
