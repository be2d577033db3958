"""Calibration data and INT8 graphs of a tiny family in FP16, as real weights are served."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from toolkit.__main__ import main
from toolkit.errors import InputError
from toolkit.export import onnx_file, sums, tensorrt
from toolkit.export.description import DEFAULTS, INPUT_FIDELITY, PERSON_NOUNS, SCHEDULE_KEYS, weights_sha256
from toolkit.export.networks import halve, networks
from toolkit.models import TINY, new_family, write_tokenizer
from toolkit.models.family import new_scheduler
from toolkit.quantize import UNETS, graph, judge, prompts, rows
from toolkit.reference import networks as reference_networks

STEPS = 8
CONFIGS = ("tensorrt/unet_tdm/config.pbtxt", "onnxruntime/unet_tdm/config.pbtxt")
OTHERS = ("models/unet_tdm/1/model.onnx", "engines/unet_tdm.plan", "tensorrt/unet_tdm/1/model.plan")
NAMES = ("sample", "timestep", "encoder_hidden_states")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Laid out as real weights are: graphs for engines, configurations, and what belongs to other graphs."""
    folder = tmp_path_factory.mktemp("families") / "tiny"
    for name, network in networks(new_family(seed=6, preset=TINY)).items():
        path = folder / "onnxruntime" / name / "1" / "model.onnx"
        if name == "unet_sdm":  # the TDM's weights; an export takes seconds
            path.parent.mkdir(parents=True)
            shutil.copyfile(folder / "onnxruntime" / "unet_tdm" / "1" / "model.onnx", path)
        else:
            onnx_file.write(halve(network), path, TINY, "fp16")
    sums.write(folder / "onnxruntime")
    write_tokenizer(folder / "tokenizer")
    for path in (*OTHERS, *CONFIGS):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"{path} {weights_sha256(folder / 'onnxruntime')}")
    (folder / "profiles.json").write_text('{\n  "precision": "fp16",\n  "models": {}\n}\n')
    description = {
        "name": "tiny",
        "schedule": {key: new_scheduler().config[key] for key in SCHEDULE_KEYS},
        "scaling_factor": 0.6,
        "object_resolution": 128,
        "defaults": {**DEFAULTS, "num_inference_steps": STEPS},
        "input_fidelity": INPUT_FIDELITY,
        "person_nouns": PERSON_NOUNS,
        "weights_sha256": weights_sha256(folder / "onnxruntime"),
    }
    (folder / "pipeline.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A file of six prompts, one without references."""
    folder = tmp_path_factory.mktemp("prompts")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    for k, face in enumerate(pixels):
        Image.fromarray(face).save(folder / f"{k}.png")
    lines = [
        {"prompt": "a woman <|image|> reading in the snow", "references": ["0.png"]},
        {"prompt": "a man and a girl at home", "references": ["1.png", "2.png"], "negative_prompt": "a city"},
        {"prompt": "a street at night"},
        {"name": "pair", "seed": 5, "group": "style", "prompt": "a boy <|image|>", "references": ["2.png"]},
        {"prompt": "a girl <|image|> in a park", "references": ["1.png"]},
        {"prompt": "a chef <|image|>", "references": ["0.png"]},
    ]
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def calibrate(family, asked, out, *options):
    return main(["calibrate", "--family", str(family), "--prompts", str(asked), "--out", str(out), *options])


@pytest.fixture(scope="module")
def recorded(family, asked, tmp_path_factory):
    out = tmp_path_factory.mktemp("recorded")
    assert calibrate(family, asked, out, "--pictures", "10", "--rows", "32") == 0
    return out


@pytest.fixture(scope="module")
def quantized(family, recorded):
    out = family.parent / "int8"
    assert main(["quantize", "--family", str(family), "--calibration", str(recorded), "--out", str(out)]) == 0
    return out


def unet(folder, name="unet_sdm") -> Path:
    return folder / "onnxruntime" / name / "1" / "model.onnx"


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def test_recorded_rows_are_what_the_graphs_were_fed(family, asked, tmp_path, monkeypatch):
    fed = {name: [] for name in UNETS}

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path, *args, **kwargs):
            super().__init__(path, *args, **kwargs)
            self.name = path.parents[1].name

        def run(self, outputs, feeds):
            if self.name in fed:
                fed[self.name].append({key: value.copy() for key, value in feeds.items()})
            return super().run(outputs, feeds)

    monkeypatch.setattr(reference_networks.onnxruntime, "InferenceSession", Session)
    assert calibrate(family, asked, tmp_path, "--pictures", "5", "--rows", "2048") == 0  # more than all of them
    for name, calls in fed.items():
        data = [arrays(tmp_path / part / f"{name}.npz") for part in ("", "check")]
        assert calls[0]["sample"].dtype == np.float16 and calls[0]["timestep"].dtype == np.float32
        for key in NAMES:
            together = np.concatenate([part[key] for part in data])
            assert np.array_equal(together, np.concatenate([call[key] for call in calls]))
            assert together.dtype == calls[0][key].dtype
    # with the family's bounds, those of low fidelity, nobody, and nobody; for the check with the family's bounds
    assert _steps_by_picture(fed["unet_tdm"]) == [6, 7, STEPS, STEPS, 6]
    assert _steps_by_picture(fed["unet_sdm"]) == [STEPS - 3, STEPS - 4, STEPS - 3]


def _steps_by_picture(calls) -> list[int]:
    """Timesteps fall within a picture."""
    timesteps = np.array([call["timestep"][0] for call in calls])
    return [len(part) for part in np.split(timesteps, np.flatnonzero(np.diff(timesteps) > 0) + 1)]


def test_rows_cover_the_schedule_and_follow_the_seed(family, asked, recorded, tmp_path):
    for name in UNETS:
        for part, count in (("", 32), ("check", 8)):
            data = arrays(recorded / part / f"{name}.npz")
            assert set(data) == set(NAMES) and {len(value) for value in data.values()} == {count}
            for key in ("sample", "timestep"):  # of one step's two rows, which differ in what they are told
                assert np.array_equal(data[key][::2], data[key][1::2])
            told = data["encoder_hidden_states"]
            assert (told[::2] != told[1::2]).any(axis=(1, 2)).all()
    seen = {name: arrays(recorded / f"{name}.npz")["timestep"] for name in UNETS}
    assert all(seen[name].min() < 250 for name in UNETS)  # the TDM's by the pictures without subjects
    assert seen["unet_tdm"].max() > 700 and seen["unet_sdm"].max() > 600
    for out, seed in (("same", "0"), ("other", "1")):
        assert calibrate(family, asked, tmp_path / out, "--pictures", "10", "--rows", "32", "--seed", seed) == 0
    for name in UNETS:
        again, other = (arrays(tmp_path / out / f"{name}.npz") for out in ("same", "other"))
        data = arrays(recorded / f"{name}.npz")
        assert all(np.array_equal(data[key], again[key]) for key in NAMES)
        assert not np.array_equal(data["sample"], other["sample"])


def test_checked_prompts_are_not_calibrated_with(asked):
    requests = prompts.read(asked)
    others, kept = prompts.split(requests)
    assert len(requests) == 6 and [request.prompt for request in kept] == ["a girl <|image|> in a park"]
    assert len(others) == 5 and not set(r.prompt for r in others) & set(r.prompt for r in kept)
    built_in = prompts.built_in()
    assert {len(request.subjects) for request in built_in} == {1, 2} and len(built_in) == 40
    with pytest.raises(InputError, match="two different"):
        prompts.split(requests[:1])


def test_int8_graphs_are_what_tensorrt_quantizes(family, quantized):
    model = onnx.load(unet(quantized))
    inferred = onnx.shape_inference.infer_shapes(model)
    assert tensorrt.faults(inferred) == []
    assert set(graph.quantized_types(inferred)) == {"QuantizeLinear INT8", "DequantizeLinear INT8"}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in nodes:
        scale, zero_point = (constants[name] for name in node.input[1:3])
        assert scale.dtype == np.float16 and (scale > 0).all() and not zero_point.any()
    weights = [node for node in nodes if node.input[0] in constants]
    assert weights and all(node.op_type == "DequantizeLinear" for node in weights)
    for node in weights:  # a scale an output channel, INT8 in the file
        weight, scale = constants[node.input[0]], constants[node.input[1]]
        axis = next(a.i for a in node.attribute if a.name == "axis")
        assert weight.dtype == np.int8 and scale.shape == (weight.shape[axis],)
        assert axis == (0 if weight.ndim == 4 else 1)
    assert all(constants[n.input[1]].ndim == 0 for n in nodes if n.op_type == "QuantizeLinear")
    assert unet(quantized).stat().st_size < 0.7 * unet(family).stat().st_size
    source = onnx.load(unet(family))
    assert list(model.graph.input) == list(source.graph.input) and list(model.graph.output) == list(source.graph.output)


def test_sensitive_layers_keep_their_precision(family, quantized):
    before, after = onnx.load(unet(family)), onnx.load(unet(quantized))
    dequantized = {node.output[0] for node in after.graph.node if node.op_type == "DequantizeLinear"}
    touched = {node.name for node in after.graph.node if dequantized.intersection(node.input)}
    weights = {tensor.name for tensor in before.graph.initializer}
    convolutions = [node for node in before.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        ends = node.input[0] == "sample" or node.output[0] == "noise_pred" or "conv_shortcut" in node.input[1]
        assert (node.name in touched) != ends, node.input[1]
    products = [node for node in before.graph.node if node.op_type == "MatMul"]
    attention = [node for node in products if not weights.intersection(node.input)]
    text = [node for node in products if node.input[0] == "encoder_hidden_states"]
    assert len(attention) == 2 * sum(node.op_type == "Softmax" for node in before.graph.node) and text
    kept = {node.name for node in (*attention, *text)}
    assert {node.name for node in products} - touched == kept
    assert touched <= {node.name for node in (*convolutions, *products)}  # no Gemm of the timestep, no norm
    assert graph.quantized_layers(after) == len(touched)


def test_int8_costs_something_and_not_much(family, recorded, quantized, capsys):
    options = ["--family", str(family), "--calibration", str(recorded), "--out", str(quantized)]
    assert main(["quantize", *options, "--check", "--pictures", "1", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    errors = re.findall(r"\| `(unet_[ts]dm)` \| \d+ to \d+ \| (\d+) \| ([\d.]+)% \| [\d.]+ \| ([\d.]+)% \|", printed)
    assert sum(int(steps) for name, steps, _, _ in errors if name == "unet_tdm") == 4
    assert {name for name, *_ in errors} == set(UNETS)
    assert all(0 < float(noise) < 12 and 0 < float(guided) < 60 for *_, noise, guided in errors)
    (apart,) = re.findall(r"00.png: ([\d.]+) of 255 apart", printed)
    assert float(apart) < 20
    assert Image.open(quantized / "comparison" / "00.png").size == (2 * TINY.image_size, TINY.image_size)


def test_errors_are_those_of_a_known_change(family, recorded, tmp_path):
    """A graph whose noise_pred is 10 % larger is 10 % off, guided or not."""
    model = onnx.load(unet(family))
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(1.1, np.float16), "factor"))
    model.graph.node.append(helper.make_node("Mul", ["before", "factor"], [output.name]))
    onnx.save(model, tmp_path / "larger.onnx")
    data = rows.read(recorded / "check" / "unet_sdm.npz", unet(family))
    found = judge.errors(unet(family), tmp_path / "larger.onnx", data, 5.0, 1000)
    assert len(found) > 1 and sum(band.steps for band in found) == 4
    timesteps = data["timestep"][::2]
    for band in found:
        assert band.steps == np.count_nonzero((timesteps >= band.low) & (timesteps <= band.high))
        assert band.noise_pred == pytest.approx(0.1, rel=0.02) and band.guided == pytest.approx(0.1, rel=0.05)
    assert [band.low for band in found] == sorted((band.low for band in found), reverse=True)


def test_the_rest_of_the_family_is_copied_and_its_identity_is_new(family, quantized):
    before, after = (json.loads((folder / "pipeline.json").read_text()) for folder in (family, quantized))
    assert after["weights_sha256"] == weights_sha256(quantized / "onnxruntime") != before["weights_sha256"]
    assert {**after, "weights_sha256": ""} == {**before, "weights_sha256": ""}
    assert json.loads((quantized / "profiles.json").read_text()) == {"precision": "int8", "models": {}}
    files = {path.relative_to(family).as_posix() for path in family.rglob("*") if path.is_file()}
    made = {path.relative_to(quantized).as_posix() for path in quantized.rglob("*") if path.is_file()}
    assert {name for name in made if not name.startswith("comparison/")} == files - set(OTHERS)
    for name in CONFIGS:
        assert (quantized / name).read_text() == f"{name} {after['weights_sha256']}"
    unets = {unet(family, name).relative_to(family).as_posix() for name in UNETS}
    new = {"pipeline.json", "profiles.json", "onnxruntime/SHA256SUMS", *CONFIGS, *unets}
    for name in files - set(OTHERS):
        assert ((quantized / name).read_bytes() == (family / name).read_bytes()) == (name not in new), name


def test_weights_behind_casts_are_laid_open():
    path = Path("model_repository/mini/models/unet_tdm/1/model.onnx")
    stored, model = onnx.load(path), graph.load(path)
    assert sum(node.op_type == "Cast" for node in stored.graph.node) > 100
    assert not [node for node in model.graph.node if node.op_type == "Cast"]
    quantizable = [sum(not why for why in graph.layers(m).values()) for m in (stored, model)]
    assert quantizable == [0, 96]
    generator = np.random.default_rng(0)
    inputs = rows.inputs_of(path).items()
    feeds = {name: generator.normal(size=(2, *shape)).astype(kind) for name, (kind, shape) in inputs}
    got = [onnxruntime.InferenceSession(m.SerializeToString()).run(None, feeds)[0] for m in (stored, model)]
    assert np.array_equal(*got)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path, data: path.write_bytes(path.read_bytes()[:-300]), "is cut or no .npz"),
        (lambda path, data: path.write_bytes(b"rows"), "is cut or no .npz"),
        (lambda path, data: path.unlink(), "does not exist; record it again"),
        (lambda path, data: np.savez(path, **data, extra=data["sample"]), "holds .*extra.*, but .* takes"),
        (lambda path, data: np.savez(path, **data | {"sample": data["sample"].astype(np.float32)}), "is float32"),
        (lambda path, data: np.savez(path, **data | {"sample": data["sample"][:, :, 1:]}), "calibrate the family"),
        (lambda path, data: np.savez(path, **{k: v[:3] for k, v in data.items()}), "holds 3 rows"),
        (lambda path, data: np.savez(path, **data | {"sample": data["sample"] * np.inf}), "not finite"),
    ],
    ids=["cut", "no archive", "missing", "further name", "type", "shape", "odd", "not finite"],
)
def test_data_that_is_not_the_graphs_is_refused(family, recorded, tmp_path, capsys, damage, message):
    calibration = shutil.copytree(recorded, tmp_path / "recorded")
    path = calibration / "unet_sdm.npz"
    damage(path, arrays(path))
    out = tmp_path / "out"
    assert main(["quantize", "--family", str(family), "--calibration", str(calibration), "--out", str(out)]) == 2
    assert re.search(message, capsys.readouterr().err) and not out.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a woman", "line 1 is no JSON"),
        ('["a woman"]', "line 1 has no prompt"),
        ('{"prompt": " "}', "line 1 has no prompt"),
        ('{"prompt": "a woman", "image": "a.png"}', "line 1 has image; expected"),
        ('{"prompt": "a woman", "references": "a.png"}', "no list of file names"),
        ('{"prompt": "a woman", "references": ["a.png"]}', "a.png is no image"),
        ('{"prompt": "a woman <|image|>"}', "1 markers .* for 0 reference images"),
    ],
)
def test_prompts_that_cannot_be_drawn_are_refused(family, tmp_path, capsys, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(line + "\n")
    (tmp_path / "b.txt").write_text("")
    assert calibrate(family, path, tmp_path / "out") == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "10"], "multiple of 8"),
        (["--pictures", "1"], "2 or more"),
        (["--steps", "3"], "8 or more"),
        (["--prompts", "no.jsonl"], "cannot be read"),
        (["--family", "docs"], "no folder of a family"),
    ],
)
def test_options_that_cannot_be_calibrated_with_are_refused(family, asked, tmp_path, capsys, options, message):
    assert calibrate(family, asked, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_drawn_people_are_for_the_families_that_know_them(family, tmp_path, capsys):
    real = shutil.copytree(family, tmp_path / "real")
    text = (real / "pipeline.json").read_text().replace('"tiny"', '"sd15"')
    (real / "pipeline.json").write_text(text)
    assert calibrate(real, "built-in", tmp_path / "out") == 2
    assert "drawn people, which sd15 does not know" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mode", "fp8"], "give --modelopt"),
        (["--mode", "fp8", "--modelopt", "no-such-python"], "is no program"),
        (["--modelopt", "false"], "ModelOpt ended with 1"),
        (["--keep", "."], "leaves nothing"),
        (["--check"], "model.onnx does not exist"),
        (["--family", "docs"], "model.onnx does not exist"),
    ],
)
def test_what_cannot_be_quantized_leaves_nothing_behind(family, recorded, tmp_path, capsys, options, message):
    out = tmp_path / "out"
    given = ["--family", str(family), "--calibration", str(recorded), "--out", str(out), *options]
    assert main(["quantize", *given]) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_a_family_is_not_overwritten_and_one_without_q_dq_is_named(family, recorded, capsys):
    given = ["--family", str(family), "--calibration", str(recorded), "--out", str(family)]
    assert main(["quantize", *given]) == 2 and "exists" in capsys.readouterr().err
    assert main(["quantize", *given, "--check"]) == 2 and "not quantized" in capsys.readouterr().err


def test_modelopt_is_told_the_same_layers(family, recorded, tmp_path):
    """A stand-in that keeps the graph and what it was told, and fails."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\ncp "$4" {tmp_path}/model.onnx\nprintf "%s\\n" "$@" > {tmp_path}/told\nexit 3\n')
    stand_in.chmod(0o755)
    given = ["--family", str(family), "--calibration", str(recorded), "--out", str(tmp_path / "out"), "--mode", "fp8"]
    assert main(["quantize", *given, "--modelopt", str(stand_in)]) == 2
    told = (tmp_path / "told").read_text().splitlines()
    assert told[told.index("--quantize_mode") + 1] == "fp8" and told[told.index("--high_precision_dtype") + 1] == "fp16"
    assert Path(told[told.index("--calibration_data_path") + 1]) == recorded / "unet_tdm.npz"
    model, names = onnx.load(tmp_path / "model.onnx"), graph.layers(onnx.load(unet(family)))
    pattern = told[told.index("--nodes_to_quantize") + 1]
    matched = [node.name for node in model.graph.node if re.match(pattern, node.name)]
    assert [name.rstrip("/") for name in matched] == [name for name, why in names.items() if not why]
    for name in (all_names := [node.name for node in model.graph.node]):  # ModelOpt takes names for beginnings
        assert sum(other.startswith(name) for other in all_names) == 1


@pytest.mark.parametrize(
    ("to", "zero_point", "fault"),
    [
        (TensorProto.INT8, 0, None),
        (TensorProto.FLOAT8E4M3FN, 0, None),
        (TensorProto.INT8, 3, "zero point other than 0"),
        (TensorProto.UINT8, 0, "QuantizeLinear to UINT8"),
        (TensorProto.FLOAT8E5M2, 0, "QuantizeLinear to FLOAT8E5M2"),
    ],
    ids=["INT8", "FLOAT8E4M3FN", "asymmetric", "UINT8", "FLOAT8E5M2"],
)
@pytest.mark.parametrize("precision", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_what_tensorrt_makes_of_quantized_types(to, zero_point, fault, precision):
    x, y = (helper.make_tensor_value_info(name, precision, [2]) for name in "xy")
    constants = [helper.make_tensor("scale", precision, [], [0.1]), helper.make_tensor("zero", to, [], [zero_point])]
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"])]
    nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]))
    made = helper.make_graph(nodes, "graph", [x], [y], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", onnx_file.OPSET)])
    faults = tensorrt.faults(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    assert faults == [] if fault is None else any(fault in found for found in faults), faults


def test_a_bias_in_int32_is_named():
    """What quantizers for CPUs make of biases."""
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    constants = [helper.make_tensor("bias", TensorProto.INT32, [2], [1, 2]), helper.make_tensor("scale", 1, [], [0.1])]
    node = helper.make_node("DequantizeLinear", ["bias", "scale"], ["y"])
    made = helper.make_graph([node], "graph", [], [y], constants)
    (fault,) = tensorrt.faults(helper.make_model(made, opset_imports=[helper.make_opsetid("", onnx_file.OPSET)]))
    assert fault.startswith("DequantizeLinear of INT32")
