"""Exported files against the contract and against PyTorch, on tiny real networks."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from toolkit.card import write_part
from toolkit.data.samples import SCENES, SUBJECTS, make_sample
from toolkit.export import onnx_file, verify
from toolkit.export.command import export
from toolkit.export.description import PERSON_NOUNS, weights_sha256, wording
from toolkit.export.networks import networks
from toolkit.export.weights import read_family
from toolkit.models import TINY, new_family
from toolkit.train import record

L, D, S, SIDE = 77, TINY.width, 4, TINY.latent_size
LATENTS = (4, SIDE, SIDE)
CONTRACT = {  # ARCHITECTURE.md, "Networks"
    "text_encoder": ({"input_ids": (L,)}, {"hidden_states": (L, D)}),
    "image_encoder": ({"pixel_values": (3, 64, 64)}, {"image_embeds": (D,)}),
    "subject_fuser": (
        {"hidden_states": (L, D), "image_embeds": (S, D), "subject_positions": (S,)},
        {"hidden_states_augmented": (L, D)},
    ),
    "unet_tdm": ({"sample": LATENTS, "timestep": (), "encoder_hidden_states": (L, D)}, {"noise_pred": LATENTS}),
    "unet_sdm": ({"sample": LATENTS, "timestep": (), "encoder_hidden_states": (L, D)}, {"noise_pred": LATENTS}),
    "vae_decoder": ({"latents": LATENTS}, {"image": (3, 128, 128)}),
}
STAGES = [{"stage": "vae", "steps": 7, "minutes": 0.5}, {"stage": "tdm", "steps": 9, "minutes": 1.5}]
INTEGERS = {"input_ids", "subject_positions"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(family of tiny networks, folder of its export, what the export printed)."""
    out = tmp_path_factory.mktemp("exported")
    family = new_family(seed=9, preset=TINY)
    family.config |= {"scaling_factor": 0.75, "trained": STAGES}
    with torch.no_grad():  # fresh biases are all zero and would hide a lost one
        for network in family.networks().values():
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return family, out, export(family, out, created=1_700_000_000)


@pytest.mark.parametrize("name", CONTRACT)
def test_names_types_and_shapes(exported, name):
    path = exported[1] / "models" / name / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(path)
    inputs, outputs = CONTRACT[name]
    for tensors, declared in ((inputs, session.get_inputs()), (outputs, session.get_outputs())):
        assert {t.name: tuple(t.shape[1:]) for t in declared} == tensors
        assert {t.name: t.type for t in declared} == {
            t: "tensor(int64)" if t in INTEGERS else "tensor(float)" for t in tensors
        }
        assert all(isinstance(t.shape[0], str) for t in declared)  # any number of rows


def test_onnx_runtime_equals_pytorch_and_a_wrong_network_is_noticed(exported):
    family, out, table = exported
    errors = [float(line.split("|")[4]) for line in table.splitlines()[2 : 2 + len(CONTRACT)]]
    limit = verify.TOLERANCE["stored16"]
    assert len(errors) == len(CONTRACT) and max(errors) <= limit
    network = networks(family)["unet_tdm"]
    other = verify.load(out / "models" / "unet_sdm" / "1" / "model.onnx")
    assert verify.error(other, network, verify.expected(network, verify.ROWS)) > 100 * limit


def test_every_row_has_its_own_timestep(exported):
    session = onnxruntime.InferenceSession(exported[1] / "models" / "unet_tdm" / "1" / "model.onnx")
    source = np.random.default_rng(0)
    sample = np.repeat(source.standard_normal((1, *LATENTS), np.float32), 3, axis=0)
    states = np.repeat(source.standard_normal((1, L, D), np.float32), 3, axis=0)

    def run(rows, timesteps):
        feeds = {"sample": sample[:rows], "timestep": np.float32(timesteps), "encoder_hidden_states": states[:rows]}
        return session.run(None, feeds)[0]

    together = run(3, [981, 1, 500])
    for row, timestep in enumerate([981, 1, 500]):
        assert np.abs(together[row] - run(1, [timestep])[0]).max() < 1e-5
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_unused_slots_do_not_touch_the_text(exported):
    session = onnxruntime.InferenceSession(exported[1] / "models" / "subject_fuser" / "1" / "model.onnx")
    source = np.random.default_rng(0)
    states, embeds = source.standard_normal((1, L, D), np.float32), source.standard_normal((1, S, D), np.float32)

    def run(*positions):
        feeds = {"hidden_states": states, "image_embeds": embeds, "subject_positions": np.array([positions])}
        return session.run(None, feeds)[0]

    assert np.array_equal(run(-1, -1, -1, -1), states)
    changed = (run(5, -1, 9, -1) != states).any(axis=2)[0]
    assert changed.nonzero()[0].tolist() == [5, 9]


@pytest.mark.parametrize("name", CONTRACT)
def test_weights_are_stored_as_fp16_and_folded_to_fp32_when_loaded(exported, name, tmp_path):
    path = exported[1] / "models" / name / "1" / "model.onnx"
    model = onnx.load(path)
    sizes = {dtype: 0 for dtype in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)}
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += np.prod(tensor.dims)
    assert sizes[onnx.TensorProto.FLOAT16] > 20 * sizes[onnx.TensorProto.FLOAT]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options)
    loaded = onnx.load(tmp_path / "optimized.onnx")
    assert not [t.name for t in loaded.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]


def test_the_same_weights_give_the_same_bytes_and_no_path_of_this_machine(exported, tmp_path):
    family, out, _ = exported
    network = networks(family)["subject_fuser"]
    onnx_file.write(network, tmp_path / "again.onnx", TINY)
    written = (out / "models" / "subject_fuser" / "1" / "model.onnx").read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == written
    for path in (out / "models").glob("*/1/model.onnx"):
        assert b"site-packages" not in path.read_bytes() and os.getcwd().encode() not in path.read_bytes()


def test_pytorch_gets_its_weights_back_from_the_exported_files(exported):
    family, out, _ = exported
    back = read_family(out)
    assert back.preset == TINY
    for name, network in networks(family).items():
        theirs = networks(back)[name].module.state_dict()
        for key, value in network.module.state_dict().items():
            assert torch.equal(value, theirs[key]), f"{name}: {key}"
    assert back.config["scaling_factor"] == family.config["scaling_factor"] and "random_encoder" not in back.config
    assert back.config["trained"] == STAGES


def test_the_encoder_lies_outside_what_triton_loads_and_may_be_missing(exported, tmp_path):
    family, out, table = exported
    assert not list((out / "models").rglob("*.safetensors"))
    assert table.splitlines()[-1].startswith("| `training/vae_encoder.safetensors`, for training only")
    for part in ("models", "pipeline.json"):
        (tmp_path / part).symlink_to(out / part)
    back = read_family(tmp_path)
    assert back.config["random_encoder"] and back.config["trained"] == []
    theirs, ours = back.vae.state_dict(), family.vae.state_dict()
    same = {key.split(".")[1] for key, value in ours.items() if torch.equal(value, theirs[key])}
    assert same == {"decoder", "post_quant_conv"}
    (tmp_path / "training").mkdir()
    save_file({"autoencoder.encoder.conv_in.bias": torch.zeros(32)}, tmp_path / "training" / "vae_encoder.safetensors")
    with pytest.raises(ValueError, match="another autoencoder"):
        read_family(tmp_path)


def test_the_folder_is_what_triton_and_the_gateway_load(exported, tmp_path):
    _, out, _ = exported
    config = (out / "models" / "unet_tdm" / "config.pbtxt").read_text()
    assert 'name: "timestep", data_type: TYPE_FP32, dims: [1], reshape: { shape: [] }' in config
    assert "max_batch_size: 8" in config and "dynamic_batching" in config
    for name in CONTRACT:
        assert (out / "models" / name / "1" / "model.py").resolve() == (out / "models" / "onnx_model.py").resolve()
    description = json.loads((out / "pipeline.json").read_text())
    assert description["weights_sha256"] == weights_sha256(out / "models")
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    summed = subprocess.run(check, cwd=out / "models", capture_output=True, text=True, check=True).stdout
    files = {str(path.relative_to(out / "models")) for path in (out / "models").glob("*/1/*.onnx*")}
    assert {line.split(":")[0] for line in summed.splitlines()} == files
    assert description["created"] == 1_700_000_000 and description["object_resolution"] == 128
    assert description["person_nouns"] == PERSON_NOUNS and "vocabulary" not in description
    shutil.copytree(out / "models", tmp_path / "models", symlinks=True)
    path = tmp_path / "models" / "vae_decoder" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    assert weights_sha256(tmp_path / "models") != description["weights_sha256"]


def test_the_gateway_reads_the_description(exported):
    program = Path(__file__).parents[2] / "bin" / "facediffuser"
    assert program.exists(), "build the gateway first: make build"
    command = [program, "serve", "--check-config", "--family", exported[1]]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_the_mini_family_lists_every_word_that_it_learns():
    mini = wording("mini")
    phrases = [phrase for group in mini["vocabulary"].values() for phrase in group]
    known = set(" ".join(phrases + mini["person_nouns"]).split())
    for recipe in (SCENES, SUBJECTS):
        for index in range(40):
            caption = make_sample(recipe, "train", index).caption
            words = caption.replace("<|image|>", " ").replace(",", " ").split()
            assert known.issuperset(words), f"{caption}: {set(words) - known} is not in the vocabulary"
    for name, group in mini["vocabulary"].items():  # what the gateway refuses
        assert group and all(group) and len(set(group)) == len(group), name


def test_tables_go_into_the_model_card(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("# Card\n<!-- budget -->\nold\n<!-- /budget -->\nrest\n")
    assert write_part(card, "budget", r"| new \1 |") and write_part(card, "budget", "| new |")
    assert card.read_text() == "# Card\n<!-- budget -->\n| new |\n<!-- /budget -->\nrest\n"
    assert not write_part(card, "stages", "| new |") and not write_part(tmp_path / "missing.md", "budget", "")


def test_the_log_of_the_stages_is_a_table():
    line = {"stage": "vae", "steps": 4500, "batch": 8, "minutes": 37.6, "peak_memory_mib": 3100,
            "measured": {"error_on_people": 0.02}}  # fmt: skip
    table = record.table([line, line | {"minutes": 2.6, "peak_memory_mib": None, "measured": {}}]).splitlines()
    assert table[2] == "| `vae` | 4,500 | 8 | 38 | 3100 | error on people 0.02 |"
    assert table[3:] == ["| `vae` | 4,500 | 8 | 3 |  |  |", "| all | | | 40 | | |"]
