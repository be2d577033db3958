"""What an ordinary request feels of an attack: the time of an edit with an attack under way over its time without, and the gateway's
largest resident size. Only against a gateway that this script starts, on loopback. Standard library only.

    python scripts/attack.py [--only NAME ...] [--edits 5]

Fails when an edit takes more than LIMIT times as long, or the gateway more than the attack's MiB: ORDINARY, or LARGE where a picture of
50 megapixels is decoded.
"""

import argparse
import contextlib
import socket
import statistics
import struct
import sys
import threading
import time
import urllib.parse
import zlib

from bench import ROOT, peak_of, photograph, post, segment
from with_gateway import gateway

LIMIT, ORDINARY, LARGE = 3.0, 200, 400


def scans_jpeg(width, height, scans):
    """A progressive 4:4:4 JPEG whose every scan passes over all blocks of a component and says almost nothing."""
    blocks = (width + 7) // 8 * ((height + 7) // 8)
    out = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    out += segment(0xC2, struct.pack(">BHHB", 8, height, width, 3) + b"\1\x11\0\2\x11\0\3\x11\0")
    # One code of one bit each: a difference of 0, and a run of 2^14 and more blocks without coefficients.
    out += segment(0xC4, b"\0" + b"\1" + b"\0" * 15 + b"\0") + segment(0xC4, b"\x10" + b"\1" + b"\0" * 15 + b"\xe0")
    run = "0" + "1" * 13 + "0"  # 2^15 - 2 blocks; the last one may go beyond the end
    bits = run * (blocks // ((1 << 15) - 2) + 1)
    bits += "1" * (-len(bits) % 8)
    ac = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    out += segment(0xDA, b"\3\1\0\2\0\3\0\0\0\0") + b"\0" * ((3 * blocks + 7) // 8)
    for k in range(scans - 1):
        out += segment(0xDA, bytes([1, 1 + k % 3, 0, 1, 0x3F, 0])) + ac
    return out + b"\xff\xd9"


def phone_jpeg(width, height):
    """A baseline JPEG of a phone's size, as light as such a photograph is: 4:2:0, in one pass."""
    blocks = (width + 15) // 16 * ((height + 15) // 16) * 6
    out = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    out += segment(0xC0, struct.pack(">BHHB", 8, height, width, 3) + b"\1\x22\0\2\x11\0\3\x11\0")
    # One code of one bit each: a difference of 0, and the end of a block.
    out += segment(0xC4, b"\0" + b"\1" + b"\0" * 15 + b"\0") + segment(0xC4, b"\x10" + b"\1" + b"\0" * 15 + b"\0")
    return out + segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0") + b"\0" * ((2 * blocks + 7) // 8) + b"\xff\xd9"


def black_png(width, height, depth=8, colour=0, interlaced=0):
    """A PNG that is all black: a thousandth of its pixels in bytes."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    rows = zlib.compressobj(9)
    row = bytes(1 + width * depth // 8 * {0: 1, 2: 3, 6: 4}[colour])
    data = b"".join(rows.compress(row) for _ in range(height))
    data += rows.compress(bytes(interlaced * 8 * height)) + rows.flush()  # passes have more rows; surplus data do no harm
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def passes_jpeg(width, height, passes):
    """A progressive 4:4:4 JPEG with coefficients in each block, which nearly all of its scans refine."""
    blocks = (width + 7) // 8 * ((height + 7) // 8)
    one = b"\1" + bytes(15)  # code, of one bit; all data are zero
    out = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    out += segment(0xC2, struct.pack(">BHHB", 8, height, width, 3) + b"\1\x11\0\2\x11\0\3\x11\0")
    out += segment(0xC4, b"\0" + one + b"\0") + segment(0xC4, b"\x10" + one + b"\xf1") + segment(0xC4, b"\x11" + one + b"\xe0")
    out += segment(0xDA, b"\3\1\0\2\0\3\0\0\0\1") + bytes(3 * blocks // 8 + 1)
    for component in (1, 2, 3):
        out += segment(0xDA, bytes([1, component, 0, 1, 0x3F, 1])) + bytes(blocks + blocks // 8 + 1)
    for _ in range(passes - 2):
        for component in (1, 2, 3):
            out += segment(0xDA, bytes([1, component, 1, 1, 0x3F, 0x10])) + bytes(blocks // 2 + blocks // 512 + 8)
    return out + b"\xff\xd9"


def lossless_webp(width, height):
    """28 bytes: the symbols of its pixels take no bits. Decoders work from memory, and see late that the client has left."""
    bits = 0x2F | (width - 1) << 8 | (height - 1) << 22  # and: no alpha, no transforms, no cache, one set of trees
    for tree in range(5):
        bits |= 1 << (43 + 4 * tree)  # of one symbol, 0
    data = bits.to_bytes(8, "little")
    return b"RIFF" + struct.pack("<I", 12 + len(data)) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def comments_gif():
    """A GIF of 30 MB of empty comments."""
    return b"GIF89a" + struct.pack("<HHBBB", 64, 64, 0, 0, 0) + b"!\xfe\0" * (10 << 20) + b";"


def form(*pictures):
    """A request that costs its decoding only: it is refused once all has been read."""
    body = b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n99\r\n'
    for picture in pictures:
        body += b'--b\r\nContent-Disposition: form-data; name="image[]"; filename="a"\r\n\r\n' + picture + b"\r\n"
    return body + b"--b--\r\n"


def request(body, length=None, kind="multipart/form-data; boundary=b", path="/v1/images/edits"):
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    return head.encode() + body


class Attack:
    """Connections that are opened again as soon as they end, until the attack does."""

    def __init__(self, url, connections, data, stay):
        self.address, self.data, self.stay = urllib.parse.urlsplit(url), data, stay
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(connections)]

    def run(self):
        for _ in range(1000):  # a bound on what one thread sends
            if self.over.is_set():
                return
            with contextlib.suppress(OSError), socket.create_connection((self.address.hostname, self.address.port), timeout=2) as c:
                c.sendall(self.data)
                self.stay(c, self.over)
            self.over.wait(0.2)

    def __enter__(self):
        for t in self.threads:
            t.start()
        self.over.wait(1)

    def __exit__(self, *_):
        self.over.set()
        for t in self.threads:
            t.join()


def leaves(c, over):
    over.wait(0.3)


def stays(c, over):
    """Waits for the answer or the end of the attack."""
    c.settimeout(0.5)
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            if not c.recv(65536):
                return


def drips(c, over):
    """Sends 150 bytes ten times a second."""
    c.settimeout(2)
    while not over.wait(0.1):
        c.sendall(b"x" * 150)


text = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + b"x" * (900 << 10)
SCANS = scans_jpeg(6000, 4000, 100)
ATTACKS = {
    # name: connections, what each sends, what it does then, MiB
    "100 scans of 24 MP, leaving": (15, request(form(SCANS)), leaves, LARGE),
    "100 scans of 24 MP, staying": (15, request(form(SCANS)), stays, LARGE),
    "10 scans of 50 MP, staying": (15, request(form(scans_jpeg(8192, 6144, 10))), stays, LARGE),
    "15 passes of 50 MP, staying": (15, request(form(passes_jpeg(8192, 6144, 15))), stays, LARGE),
    "grey PNG of 50 MP, staying": (15, request(form(black_png(8192, 6144))), stays, ORDINARY),
    "interlaced PNG of 50 MP, staying": (15, request(form(black_png(8192, 6144, 8, 6, 1))), stays, LARGE),
    "16-bit PNG of 44 MP, leaving": (15, request(form(black_png(8192, 5376, 16, 6))), leaves, LARGE),
    "lossless WebP of 50 MP, leaving": (15, request(form(lossless_webp(8192, 6144))), leaves, LARGE),
    "lossless WebP of 50 MP, staying": (15, request(form(lossless_webp(8192, 6144))), stays, LARGE),
    "grey PNG of 16 MP, staying": (15, request(form(black_png(4000, 4000))), stays, ORDINARY),
    "comments in a GIF, staying": (15, request(form(comments_gif())), stays, ORDINARY),
    "four progressive photographs, leaving": (15, request(form(*[photograph()] * 4)), leaves, ORDINARY),
    "1 MB of form text, stalled": (300, request(text, 1 << 20), stays, ORDINARY),
    "1 MB of JSON, stalled": (300, request(b'{"prompt": "' + b"x" * (900 << 10), 1 << 20, "application/json"), stays, ORDINARY),
    "heads without a body": (300, request(b"", 100_000), stays, ORDINARY),
    "1.5 KB a second": (100, request(b"--b\r\n", 10 << 20), drips, ORDINARY),
}


EDITS = {"a face": (ROOT / "examples/alice.png").read_bytes(), "a photograph of 24 MP": phone_jpeg(5712, 4284)}


def edit(url, picture, count):
    """The median time of an ordinary edit, alone on its connection."""
    fields = {"prompt": "a woman <|image|> reading in the snow at night", "seed": 3407}
    return statistics.median(post(url, fields, [("a", picture)])[1] for _ in range(count))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ATTACKS, metavar="NAME", help=", ".join(ATTACKS))
    parser.add_argument("--edits", type=int, default=5)
    arguments = parser.parse_args()
    missed = False
    print(f"{'attack':<40} {'edit of':<22} {'alone':>7} {'under':>7} {'ratio':>6} {'MiB':>5}")
    for name in arguments.only or ATTACKS:
        connections, data, stay, mebibytes = ATTACKS[name]
        with gateway() as (url, process):
            if process is None:
                sys.exit("attacks only a gateway of its own; unset FACEDIFFUSER_URL")
            edit(url, EDITS["a face"], 1)  # warms up
            alone = {what: edit(url, picture, arguments.edits) for what, picture in EDITS.items()}
            with Attack(url, connections, data, stay):
                under = {what: edit(url, picture, arguments.edits) for what, picture in EDITS.items()}
            peak = peak_of(process)
        for what in EDITS:
            ratio = under[what] / alone[what]
            bad = ratio > LIMIT or peak > mebibytes
            missed |= bad
            print(f"{name:<40} {what:<22} {alone[what]:>6.2f}s {under[what]:>6.2f}s {ratio:>6.2f} {peak:>5.0f}{'  MISSED' if bad else ''}", flush=True)
    sys.exit(missed)


if __name__ == "__main__":
    main()
