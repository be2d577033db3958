"""What the gateway itself costs, as ratios of one run on this machine. Standard library only.

    python scripts/bench.py [--only speed|memory]

1. Speed: a picture of one subject at the family's defaults (50 steps), alone. The gateway's own share is the wall time that a client
   sees outside the gateway's calls to Triton, over the wall time; the answer carries both.
2. Memory: the largest resident size of the gateway (VmHWM) with 16 requests at once, each with four progressive JPEGs of 12 megapixels;
   and with one progressive JPEG of 50 megapixels, with and without chroma subsampling. `make bench-attack` watches it under attacks,
   `make bench-bombs` that of the decoder alone.

Fails when a limit is missed. testdata/progressive-12mp.jpg is 4000×3000, three full-resolution components, made by Pillow 13.0
(quality=50, progressive=True, subsampling=0) from sines; it is padded to the size of a photograph with application segments.
"""

import argparse
import base64
import concurrent.futures
import json
import pathlib
import statistics
import struct
import sys
import time
import urllib.error
import urllib.request
import uuid

from with_gateway import ROOT, gateway

SHARE, SECONDS, MEBIBYTES = 0.05, 5.0, 200
LARGE = {"4:4:4": (0x11, 400), "4:2:0": (0x22, 256)}  # sampling factors of luma, MiB
PHOTO = 3 << 20


def post(url, fields, images):
    """Sends a form; returns the decoded answer and its seconds. Tries again when told to."""
    boundary = uuid.uuid4().hex
    body = b"".join(f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items())
    for name, data in images:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image[]"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    request = urllib.request.Request(f"{url}/v1/images/edits", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    for last in (False, False, False, True):
        start = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                answer = json.load(response)
            break
        except urllib.error.HTTPError as error:
            again = error.headers.get("Retry-After")
            if last or not again:
                sys.exit(f"{error.code}: {error.read().decode()}")
            time.sleep(float(again))
    seconds = time.perf_counter() - start
    assert base64.b64decode(answer["data"][0]["b64_json"])[1:4] == b"PNG"
    return answer, seconds


def speed(url, runs=5):
    face = sorted((ROOT / "examples").glob("*.png"))[0]
    fields = {"prompt": "a woman <|image|> reading in the snow at night", "seed": 3407, "num_inference_steps": 50}
    walls, shares = [], []
    for run in range(runs + 1):
        answer, wall = post(url, fields, [(face.name, face.read_bytes())])
        if run:  # the first one warms up
            walls.append(wall)
            shares.append(1 - answer["facediffuser"]["images"][0]["timings"]["networks_seconds"] / wall)
    return statistics.median(walls), statistics.median(shares)


def photograph():
    """The fixture, padded behind its start marker to PHOTO bytes."""
    data = (ROOT / "scripts/testdata/progressive-12mp.jpg").read_bytes()
    padding = b""
    while len(data) + len(padding) < PHOTO:
        padding += b"\xff\xef\xff\xff" + bytes(65533)
    return data[:2] + padding + data[2:]


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def progressive(factors, width=8192, height=6144):
    """A progressive JPEG with coefficients in each block, all of whose data are zero bits, as long as a file may be."""
    def blocks(f):
        return width // 8 * (height // 8) * (f >> 4) * (f & 15) // (factors >> 4) // (factors & 15)
    one = b"\1" + bytes(15)  # code, of one bit
    out = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    out += segment(0xC2, struct.pack(">BHHB", 8, height, width, 3) + bytes([1, factors, 0, 2, 0x11, 0, 3, 0x11, 0]))
    out += segment(0xC4, b"\0" + one + b"\0") + segment(0xC4, b"\x10" + one + b"\xf1")
    out += segment(0xDA, b"\3\1\0\2\0\3\0\0\0\0") + bytes(blocks(factors) // 8 + 2 * blocks(0x11) // 8 + 1)
    for component, f in enumerate((factors, 0x11, 0x11), 1):
        out += segment(0xDA, bytes([1, component, 0, 1, 0x3F, 0])) + bytes(blocks(f) + blocks(f) // 8 + 1)
    return out + b"\xff\xd9" + bytes((32 << 20) - len(out) - 2)


def peak_of(process):
    """The largest resident size of a process, in MiB."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def large(url, process, factors):
    fields = {"prompt": "a woman <|image|> on the beach", "seed": 3407, "num_inference_steps": 4, "start_merge_step": 0, "final_step": 1}
    post(url, fields, [("large.jpg", progressive(factors))])
    return peak_of(process)


def memory(url, process, requests=16):
    photo = photograph()
    fields = {
        "prompt": "a woman <|image|> and a man <|image|> and a woman <|image|> and a man <|image|> on the beach",
        "seed": 3407, "num_inference_steps": 4, "start_merge_step": 0, "final_step": 1,
    }
    with concurrent.futures.ThreadPoolExecutor(requests) as pool:
        jobs = [pool.submit(post, url, fields, [(f"{k}.jpg", photo) for k in range(4)]) for _ in range(requests)]
        slowest = max(job.result()[1] for job in jobs)
    return peak_of(process), slowest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["speed", "memory"])
    only = parser.parse_args().only
    missed = False

    def report(what, value, limit, unit):
        nonlocal missed
        missed |= value > limit
        print(f"{what:<52} {value:8.2f} {unit:<4} of {limit:g} {unit}: ratio {value / limit:.2f}{'' if value <= limit else '  MISSED'}", flush=True)

    if only != "memory":
        with gateway() as (url, _):
            wall, share = speed(url)
            report("a picture, 50 steps, one subject, one request", wall, SECONDS, "s")
            report("the gateway's own share of it", 100 * share, 100 * SHARE, "%")
    if only != "speed":
        with gateway() as (url, process):
            if process is None:
                sys.exit("memory: needs a gateway of its own; unset FACEDIFFUSER_URL")
            peak, slowest = memory(url, process)
            report("largest resident size, 16 × 4 JPEGs of 12 MP", peak, MEBIBYTES, "MiB")
            print(f"{'the slowest of those requests':<52} {slowest:8.2f} s")
        for name, (factors, mebibytes) in LARGE.items():
            with gateway() as (url, process):
                report(f"largest resident size, one JPEG of 50 MP, {name}", large(url, process, factors), mebibytes, "MiB")
    sys.exit(missed)


if __name__ == "__main__":
    main()
