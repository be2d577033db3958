"""`make check-sd15` at tiny size: the same stages, with a real Triton, and what it says of what does not hold."""

import json
import shutil

import numpy as np
import psutil
import pytest
from PIL import Image

from toolkit.__main__ import main
from toolkit.check_sd15 import weights
from toolkit.check_sd15.case import GIB, PRESETS, Files
from toolkit.check_sd15.command import STAGES
from toolkit.models.layout import MANIFEST


SHARES = ("facediffuser", "images", 0, "fusion", "sdm_share")  # in a picture's JSON


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Work directory after a whole check."""
    folder = tmp_path_factory.mktemp("check")
    assert main(["check-sd15", "--preset", "tiny", "--work-dir", str(folder)]) == 0
    return folder


def compare(folder, capsys):
    """(exit code, table, complaints) of what lies in a work directory."""
    code = main(["check-sd15", "--preset", "tiny", "--work-dir", str(folder), "--from", "compare"])
    return code, *capsys.readouterr()


def test_the_gateway_draws_what_the_reference_draws_of_the_authors_files(work, capsys):
    files = Files(work)
    code, said, complaints = compare(work, capsys)
    assert code == 0 and complaints == ""
    assert len(said.splitlines()) == 7 + len(STAGES[:-1])
    for stage, measured in json.loads(files.measured.read_text()).items():
        assert f"peak memory of {stage}" in said
        assert 2**25 < measured["peak"] < 4 * GIB and measured["seconds"] > 0
    assert {path.name for path in (files.family / "models").glob("*/1")} == {"1"}
    answer = json.loads((files.pictures / "picture.json").read_text())["facediffuser"]
    assert answer["parameters"]["scheduler"] == "pndm" and len(list(files.latents.glob("*.npy"))) == 3
    one = answer["images"][0]["fusion"]
    assert one["steps"] == [1, 2]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda files: _brighter(files.reference / "picture.png", 4),
         "picture, gateway against reference: 4 of 255, want at most 3"),
        (lambda files: np.save(files.latents / "0.npy", 1.01 * np.load(files.latents / "0.npy")),
         "its final latents, relative: 1.0e-02, want at most 0.001"),
        (lambda files: shutil.copy(files.pictures / "picture.png", files.pictures / "swapped.png"),
         "what other subjects change: 0.0 of 255, want at least 5"),
        (lambda files: _edit(files.measured, ("serve", "peak"), 21 * GIB), "peak memory of serve: 21.00 GiB"),
        (lambda files: _edit(files.pictures / "picture.json", SHARES, [0.95, 0.94]),
         "pixels that the TDM wins: 6.0%, want at least 10%"),
    ],
    ids=["picture", "latents", "subjects", "memory", "shares"],
)  # fmt: skip
def test_what_does_not_hold_is_said(work, tmp_path, capsys, damage, complaint):
    for part in ("reference", "pictures", "served/latents", "measured.json"):
        (shutil.copytree if (work / part).is_dir() else shutil.copy)(work / part, tmp_path / part)
    damage(Files(tmp_path))
    code, said, complaints = compare(tmp_path, capsys)
    assert code == 1 and "DOES NOT HOLD" in said
    assert f"check-sd15: {complaint}" in complaints


def _brighter(path, by):
    pixels = np.asarray(Image.open(path)).astype(int)
    pixels[0, 0] += by if pixels[0, 0].max() < 250 else -by
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def _edit(path, place, value):
    whole = part = json.loads(path.read_text())
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    path.write_text(json.dumps(whole))


def test_room_is_looked_for_before_anything_is_written(tmp_path, capsys, monkeypatch):
    def refused(*words):
        assert main(["check-sd15", "--work-dir", str(tmp_path / "out"), *words]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(GIB, GIB, GIB))
    assert "out needs 2" in refused("--stage", "weights") and "has 1.00 GiB free" in refused("--stage", "weights")
    monkeypatch.undo()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("memory", (), {"available": GIB // 4}))
    assert "0.5 GiB of memory are needed, 0.2 GiB are free" in refused("--preset", "tiny")


def test_full_weights_are_those_of_stable_diffusion():
    written, family = weights.sizes_on_disk(MANIFEST)
    assert 9e9 < written < 11e9 and 13e9 < family < 14e9
    assert PRESETS["sd15"].manifest == MANIFEST
