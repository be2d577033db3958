"""What must hold of the pictures, and how far it does."""

import json
from dataclasses import dataclass

import numpy as np
from PIL import Image

from toolkit.check_sd15.case import GIB, PICTURES, Files

LEVELS = 3  # of 255, between pictures of the gateway and of the reference, at most
LATENTS = 1e-3  # |gateway - reference| / |reference|, at most
SPREAD = 20  # of 255, a picture's standard deviation, at least
SHARE = 0.1  # of the pixels that each model wins in some fusion step, at least
CHANGE = 5  # of 255 on average, what other subjects or words change, at least
MEMORY = 20 * GIB  # of a stage, all its processes together, at most


@dataclass(frozen=True)
class Finding:
    what: str
    found: str
    want: str
    holds: bool


def compare(files: Files) -> list[Finding]:
    pictures = {name: _pixels(files.pictures / f"{name}.png") for name in PICTURES}
    picture, reference = pictures["picture"], _pixels(files.reference / "picture.png")
    about = json.loads((files.reference / "picture.json").read_text(encoding="utf-8"))
    answer = json.loads((files.pictures / "picture.json").read_text(encoding="utf-8"))
    fusion = answer["facediffuser"]["images"][0]["fusion"]
    shares = dict(zip(map(str, fusion["steps"]), fusion["sdm_share"], strict=True))
    ours, theirs = np.load(files.latents / "0.npy")[0], np.load(files.reference / "latents.npy")
    error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    largest = int(np.abs(picture - reference).max())
    said = [
        Finding("picture, gateway against reference", f"{largest} of 255", f"at most {LEVELS}", largest <= LEVELS),
        Finding("its final latents, relative", f"{error:.1e}", f"at most {LATENTS}", error <= LATENTS),
        Finding("its standard deviation", f"{picture.std():.1f} of 255", f"at least {SPREAD}", picture.std() >= SPREAD),
    ]
    for model, won in (("SDM", max(shares.values())), ("TDM", 1 - min(shares.values()))):
        said.append(Finding(f"pixels that the {model} wins", f"{won:.1%}", f"at least {SHARE:.0%}", won >= SHARE))
    for name, what in (("swapped", "other subjects"), ("other", "other words")):
        change = float(np.abs(pictures[name] - picture).mean())
        said.append(Finding(f"what {what} change", f"{change:.1f} of 255", f"at least {CHANGE}", change >= CHANGE))
    if any(abs(share - about["sdm_share"][step]) > 1e-6 for step, share in shares.items()):
        near = f"{about['nearest_tie']:.1e}"
        said.append(Finding("shares of the pixels", f"{shares}", f"{about['sdm_share']} (nearest tie {near})", False))
    for stage, measured in json.loads(files.measured.read_text(encoding="utf-8")).items():
        peak, took = measured["peak"], measured["seconds"]
        found = f"{peak / GIB:.2f} GiB, {took / 60:.1f} min"
        said.append(Finding(f"peak memory of {stage}", found, f"at most {MEMORY / GIB:.0f} GiB", peak <= MEMORY))
    return said


def table(said: list[Finding]) -> str:
    rows = [(f.what, f.found, f.want, "" if f.holds else "DOES NOT HOLD") for f in said]
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)
