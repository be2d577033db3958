"""The description of what Triton serves, against the committed families. (gateway/internal/networks holds the
configurations against Triton's own protobuf definition and the gateway's contract.)"""

from dataclasses import replace
from pathlib import Path

import pytest

from toolkit.export import configs, triton
from toolkit.models import MINI

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def test_committed_files_of_sd15_are_what_the_description_says(tmp_path):
    written = {path.relative_to(tmp_path): path.read_text() for path in configs.write(tmp_path, triton.SD15)}
    folder = REPOSITORY / "sd15"
    found = [*folder.rglob("config.pbtxt"), *folder.rglob("*.json")]
    committed = {path.relative_to(folder): path.read_text() for path in found}
    assert len(written) == 3 * 7 + 1
    assert committed == written, "run `python -m toolkit configs`"


def test_committed_configurations_of_mini_are_what_the_description_says():
    described = {m.name: triton.config(m, "cpu") for m in triton.models(triton.sizes(MINI))}
    committed = {p.parent.name: p.read_text() for p in (REPOSITORY / "mini" / "models").glob("*/config.pbtxt")}
    assert committed == described, "export the family again"


def test_sizes_of_a_preset():
    layout = {"width": 768, "reference_size": 224, "image_size": 512, "vae_patch": 1, "vae_channels": (1, 2, 4, 4)}
    assert triton.sizes(replace(MINI, **layout)) == triton.SD15


def test_a_network_that_differs_from_the_description_is_refused():
    unet = next(m for m in triton.models(triton.SD15) if m.name == "unet_tdm")
    found = triton.tensors(unet, "tensorrt")
    triton.hold(unet, "tensorrt", found)
    with pytest.raises(ValueError, match="unet_tdm: the network has the tensors"):
        triton.hold(unet, "cpu", found)  # of another precision
    with pytest.raises(ValueError, match="unet_tdm"):
        triton.hold(unet, "tensorrt", {**found, "sample": ("FP16", (4, 96, 96))})
    with pytest.raises(ValueError, match="unet_tdm"):
        triton.hold(unet, "tensorrt", {k: v for k, v in found.items() if k != "timestep"})
