"""The safety checker against diffusers' class, on tiny networks with random weights."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig

from toolkit.export import onnx_file
from toolkit.export.safety import FOLDER, safety_network
from toolkit.models import TINY

SIZE, WIDTH, ROWS = 32, 24, 300
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def new_checker() -> StableDiffusionSafetyChecker:
    """Random weights, and thresholds under which about half of random pictures are NSFW."""
    torch.manual_seed(3)
    config = CLIPConfig(vision_config={**VISION, "image_size": SIZE, "patch_size": 8}, projection_dim=WIDTH)
    checker = StableDiffusionSafetyChecker(config).eval()
    with torch.no_grad():
        for name, parameter in checker.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=1.0 if "embeds" in name else 0.3)
        embeds = image_embeds(checker, pictures(ROWS))
        # each of 17 concepts is passed by few, so that about half of the pictures pass none
        for concepts, weights, share in (
            (checker.concept_embeds, checker.concept_embeds_weights, 0.95),
            (checker.special_care_embeds, checker.special_care_embeds_weights, 0.85),
        ):
            weights.copy_(cosines(embeds, concepts).quantile(share, dim=0))
    return checker


def pictures(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 3, SIZE, SIZE, generator=torch.Generator("cpu").manual_seed(seed))


@torch.no_grad()
def image_embeds(checker, pixel_values):
    return checker.visual_projection(checker.vision_model(pixel_values)[1])


def cosines(embeds, concepts):
    return torch.nn.functional.normalize(embeds) @ torch.nn.functional.normalize(concepts).T


def decisions(checker, pixel_values) -> np.ndarray:
    """What diffusers says, without its black pictures."""
    return np.array(checker(pixel_values, [np.zeros(1)] * len(pixel_values))[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Stable Diffusion folder with nothing but its safety checker, the tensors under the names of SD 1.5's file."""
    path = tmp_path_factory.mktemp("stable-diffusion")
    new_checker().save_pretrained(path / FOLDER)
    file = path / FOLDER / "model.safetensors"
    tensors = {re.sub(r"^vision_model\.", "vision_model.vision_model.", k): v for k, v in load_file(file).items()}
    tensors["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, file, metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module")
def session(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx_file.write(safety_network(folder), path, TINY)
    onnx.checker.check_model(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


@torch.no_grad()
def score(network, pixel_values) -> np.ndarray:
    return network.module(pixel_values=pixel_values).numpy()


def test_decisions_are_those_of_diffusers(folder):
    checker, network = new_checker(), safety_network(folder)
    for seed in range(4):
        given = pictures(ROWS, seed)
        scores, expected = score(network, given), decisions(checker, given)
        assert scores.shape == (ROWS, 1) and scores.dtype == np.float32
        assert ((scores[:, 0] > 0) == expected).all()
        assert 0.2 < expected.mean() < 0.8


def test_special_care_lowers_the_thresholds_of_its_row_alone(folder):
    """Rows whose largest score is within the adjustment: it decides them, for those that it is made for."""
    checker, network = new_checker(), safety_network(folder)
    given = pictures(4 * ROWS, seed=5)
    embeds = image_embeds(checker, given)
    special = (cosines(embeds, checker.special_care_embeds) - checker.special_care_embeds_weights).amax(1) > 0.0005
    margin = (cosines(embeds, checker.concept_embeds) - checker.concept_embeds_weights).amax(1)
    decided = ((margin > -0.009) & (margin < -0.001)).numpy()
    found, expected = score(network, given)[:, 0] > 0, decisions(checker, given)
    for cared in (True, False):
        rows = decided & (special.numpy() == cared)
        assert rows.sum() > 3
        assert (expected[rows] == cared).all() and (found[rows] == cared).all()


@pytest.mark.parametrize("kind", ["concept", "special care"])
@pytest.mark.parametrize("margin", [-0.0015, -0.0006, -0.0004, 0.0, 0.0004, 0.00049, 0.00051, 0.0006, 0.0015])
def test_near_a_threshold_scores_are_rounded_as_diffusers_rounds_them(folder, kind, margin):
    """Thresholds are moved so that each picture in turn is past one of them by `margin` alone."""
    checker, network = new_checker(), safety_network(folder)
    given = pictures(30, seed=7)
    embeds = image_embeds(checker, given)
    concepts, special = cosines(embeds, checker.concept_embeds), cosines(embeds, checker.special_care_embeds)
    for row in range(len(given)):
        if kind == "concept":
            moved, cared = concepts[row] + 1, torch.ones(3)
            moved[row % 17] = concepts[row, row % 17] - margin
        else:  # then every concept is passed with the adjustment, and none without
            moved, cared = concepts[row] + 0.005, special[row] + 1
            cared[row % 3] = special[row, row % 3] - margin
        with torch.no_grad():
            for weights in (checker.concept_embeds_weights, network.module.thresholds):
                weights.copy_(moved)
            for weights in (checker.special_care_embeds_weights, network.module.special_care_thresholds):
                weights.copy_(cared)
        one = given[row : row + 1]
        assert decisions(checker, one)[0] == (score(network, one).item() > 0) == (margin > 0.0005), row


def test_onnx_runtime_decides_the_same_for_any_number_of_rows(session, folder):
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("pixel_values", "tensor(float)", [3, SIZE, SIZE])
    assert (output.name, output.type, output.shape[1:]) == ("nsfw_score", "tensor(float)", [1])
    network = safety_network(folder)
    for parameter in network.module.parameters():  # as the file stores them
        parameter.data = parameter.data.half().float()
    rows = pictures(ROWS, seed=11)
    expected = score(network, rows)
    together = session.run(None, {"pixel_values": rows.numpy()})[0]
    alone = np.concatenate([session.run(None, {"pixel_values": rows[k : k + 1].numpy()})[0] for k in range(20)])
    assert ((together > 0) == (expected > 0)).all() and 0.2 < (together > 0).mean() < 0.8
    assert np.abs(together - expected).max() <= 0.0011  # a last bit may fall to the other side of a rounding
    assert ((alone > 0) == (together[:20] > 0)).all()


def test_thresholds_and_score_stay_fp32_in_an_fp16_network(folder):
    network = safety_network(folder)
    before = network.module.thresholds.clone()
    found = network.module.half()(pixel_values=pictures(8).half())
    assert found.dtype == torch.float32 and network.module.concept_embeds.dtype == torch.float16
    assert network.module.thresholds.dtype == torch.float32 and torch.equal(network.module.thresholds, before)


def test_what_is_no_whole_safety_checker_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="holds no safety checker"):
        safety_network(tmp_path)
    part = tmp_path / FOLDER
    part.mkdir()
    config = json.loads((folder / FOLDER / "config.json").read_text())
    (part / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds no weights"):
        safety_network(tmp_path)
    tensors = load_file(folder / FOLDER / "model.safetensors")
    for change, said in (
        ({"concept_embeds_weights": None}, "missing: concept_embeds_weights"),
        ({"more": torch.zeros(1)}, "unexpected: more"),
        ({"concept_embeds": torch.zeros(17, 7)}, r"of another shape: concept_embeds \[17, 7\]"),
    ):
        changed = {k: v for k, v in (tensors | change).items() if v is not None}
        save_file(changed, part / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=said):
            safety_network(tmp_path)
