"""Who draws the pictures, and where they are kept."""

import hashlib
import io
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, PngImagePlugin
from torch import Tensor

from toolkit.evaluate.client import GatewayError, edit
from toolkit.evaluate.pairs import Pair
from toolkit.reference.networks import Networks, OnnxNetworks
from toolkit.reference.pipeline import Pipeline, Request
from toolkit.report.rows import Parameters, Row


class Artist(Protocol):
    where: str

    def draw(self, row: Row, pair: Pair, points: Sequence[Parameters]) -> Iterator[Image.Image]:
        """One pair's picture for each point, in order. Safe to call from several threads."""
        ...


class GatewayArtist:
    """What users get: a picture a request through the HTTP API."""

    where = "gateway"

    def __init__(self, url: str, weights: str) -> None:
        self.url, self.weights = url, weights

    def draw(self, row, pair, points):
        for parameters in points:
            image, details = edit(self.url, row.asked(pair), **parameters.given())
            if (served := details["parameters"]["weights"]) != self.weights:
                raise GatewayError(f"the gateway at {self.url} now serves weights {served}, not {self.weights}")
            yield Image.fromarray(image)


class ReferenceArtist:
    """toolkit.reference on the same ONNX files."""

    where = "reference"

    def __init__(self, family: Path, networks: Networks | None = None) -> None:
        self._family = family
        # One thread a session, as several pictures are drawn at a time: on two cores, two callers with
        # a thread each were 1.8 times as fast as one caller with two (3.9 against 6.9 ms a UNet row).
        self._networks = networks or OnnxNetworks(family / "models", threads=1)
        self._local = threading.local()

    def draw(self, row, pair, points):
        pipeline = self._pipeline()
        pipeline.networks = Remembering(self._networks)
        for parameters in points:
            result = pipeline.generate(as_request(row.asked(pair), parameters), method=row.method(pair, parameters))
            yield result.picture

    def _pipeline(self) -> Pipeline:
        """A thread's own: tokenizers of one process must not be used by two threads at a time."""
        if not hasattr(self._local, "pipeline"):
            self._local.pipeline = Pipeline(self._family, self._networks)
        return self._local.pipeline


class Remembering:
    """Networks that answer a call which was made before from memory.

    Points of a sweep take the same first steps: those with one start share its scene construction,
    and their fusion up to the smaller final bound. Equal inputs give equal outputs, so nothing changes
    but the time, by about a third. Made for one pair and dropped with it.
    """

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._answers = {}

    def __getattr__(self, name: str):
        network = getattr(self._networks, name)
        if not callable(network):
            return network

        def recall(*inputs):
            key = (name, *(_key(value) for value in inputs))
            if key not in self._answers:
                self._answers[key] = network(*inputs)
            return self._answers[key]

        return recall


def _key(value):
    return hashlib.blake2b(value.numpy().tobytes()).digest() if isinstance(value, Tensor) else value


def as_request(pair: Pair, parameters: Parameters) -> Request:
    given = {name: value for name, value in parameters.given().items() if name != "alpha"}
    return Request(pair.prompt, [png(reference) for reference in pair.references], seed=pair.seed, **given)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True)
class Drawn:
    """A picture and the seconds that drawing it took."""

    picture: Image.Image
    seconds: float


class Album:
    """Pictures on disk, by row, pair and digest of all that they depend on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, row: str, pair: str, digest: str) -> Path:
        return self.folder / row / f"{pair}-{digest}.png"

    def keep(self, path: Path, drawn: Drawn) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = PngImagePlugin.PngInfo()
        text.add_text("seconds", f"{drawn.seconds:.4f}")
        part = path.with_suffix(".part")  # so that a run that was cut leaves no half picture
        drawn.picture.save(part, "PNG", pnginfo=text)
        part.replace(path)

    def find(self, path: Path) -> Drawn:
        """Raises FileNotFoundError."""
        with Image.open(path) as picture:
            return Drawn(picture.convert("RGB"), float(picture.text["seconds"]))


def timed(pictures: Iterator[Image.Image]) -> Iterator[Drawn]:
    start = time.perf_counter()
    for picture in pictures:
        yield Drawn(picture, time.perf_counter() - start)
        start = time.perf_counter()
