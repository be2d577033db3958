"""FP32 and FP16 graphs of the tiny networks, and what is known of TensorRT without one."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from toolkit.export import onnx_file, tensorrt, verify
from toolkit.export.networks import Network, halve, networks
from toolkit.models import TINY, new_family

NAMES = ("text_encoder", "image_encoder", "subject_fuser", "unet_tdm", "unet_sdm", "vae_decoder")
INTEGERS = {"input_ids", "subject_positions"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Name and precision → (file, error against FP32 PyTorch); weights beside the graphs, as large ones are."""
    folder, files = tmp_path_factory.mktemp("graphs"), {}
    family = new_family(seed=4, preset=TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "EXTERNAL_FROM", 0)
        for name, network in networks(family).items():
            wanted = verify.expected(network, (3, 1))
            for precision in ("fp32", "fp16"):
                network = halve(network) if precision == "fp16" else network
                path = folder / precision / name / "model.onnx"
                onnx_file.write(network, path, TINY, precision)
                files[name, precision] = path, verify.error(verify.load(path), network, wanted)
    return files


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_of_one_precision_and_equals_pytorch(written, name, precision):
    path, error = written[name, precision]
    assert 0 < error <= verify.TOLERANCE[precision]
    model = onnx.load(path)
    unwanted = TensorProto.FLOAT16 if precision == "fp32" else TensorProto.FLOAT
    large = [t.name for t in model.graph.initializer if t.data_type == unwanted and np.prod(t.dims) > 64]
    assert not large
    for tensor in (*model.graph.input, *model.graph.output):
        floating = TensorProto.FLOAT if precision == "fp32" or tensor.name == "timestep" else TensorProto.FLOAT16
        wanted = TensorProto.INT64 if tensor.name in INTEGERS else floating
        assert tensor.type.tensor_type.elem_type == wanted, tensor.name
        assert tensor.type.tensor_type.shape.dim[0].dim_param


def test_large_weights_lie_beside_the_graph_and_are_missed_when_lost(written, tmp_path):
    path, _ = written["unet_tdm", "fp32"]
    data = path.with_name("model.onnx.data")
    parameters = sum(p.nbytes for p in new_family(preset=TINY).unet_tdm.parameters())
    assert data.stat().st_size >= 0.95 * parameters and path.stat().st_size < 0.2 * parameters
    (tmp_path / "model.onnx").write_bytes(path.read_bytes())
    with pytest.raises(onnx.checker.ValidationError, match=r"model\.onnx\.data"):
        onnx.checker.check_model(str(tmp_path / "model.onnx"))


def test_the_same_weights_give_the_same_bytes_beside_the_graph_too(written, tmp_path, monkeypatch):
    path, _ = written["subject_fuser", "fp32"]
    monkeypatch.setattr(onnx_file, "EXTERNAL_FROM", 0)
    network = networks(new_family(seed=4, preset=TINY))["subject_fuser"]
    for _ in range(2):  # the second replaces the first
        onnx_file.write(network, tmp_path / "model.onnx", TINY, "fp32")
        for suffix in ("", ".data"):
            assert Path(f"{tmp_path / 'model.onnx'}{suffix}").read_bytes() == Path(f"{path}{suffix}").read_bytes()
    assert b"site-packages" not in (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_tensorrt_has_every_operator(written, name, precision):
    model = onnx.shape_inference.infer_shapes(onnx.load(written[name, precision][0]))
    assert len({n.op_type for n in model.graph.node}) > 5
    assert tensorrt.faults(model) == []


def test_the_list_of_operators_names_its_source_and_version():
    known = json.loads(tensorrt.OPERATORS.read_text())
    assert known["tensorrt"] == "10.15" and "onnx-tensorrt" in known["source"]
    unknown = [name for name in known["operators"] if not onnx.defs.has(name)]
    # TensorRT's parser takes a few that ONNX never had or has dropped
    assert unknown == ["ImageScaler", "ParametricSoftplus", "ScaledTanh"]


@pytest.mark.parametrize(
    ("node", "fault"),
    [
        (helper.make_node("Unique", ["x"], ["y"]), "Unique: no operator"),
        (helper.make_node("Resize", ["x", "", "s"], ["y"], mode="cubic"), "Resize by cubic"),
        (helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1), "antialiasing"),
        (helper.make_node("LayerNormalization", ["x", "s"], ["y", "m"]), "more than one output"),
        (helper.make_node("ScatterND", ["x", "i", "u"], ["y"], reduction="add"), "reduction add"),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE), "Cast of DOUBLE"),
        (helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft"), "com.microsoft"),
    ],
)
def test_what_tensorrt_refuses_is_named(node, fault):
    double = node.op_type == "Cast"
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE if double else TensorProto.FLOAT, None)
    imports = [helper.make_opsetid("", onnx_file.OPSET)]
    if node.domain:
        imports.append(helper.make_opsetid(node.domain, 1))
    model = helper.make_model(helper.make_graph([node], "graph", [], [y]), opset_imports=imports)
    assert any(fault in found for found in tensorrt.faults(model)), tensorrt.faults(model)


def test_an_opset_that_tensorrt_cannot_read_is_named():
    graph = helper.make_graph([], "graph", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)])
    assert tensorrt.faults(model) == ["opset 26: TensorRT reads 9 to 24"]


def test_an_overflow_of_float16_is_found_and_named():
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    network = Network(layers, {"input": torch.ones(2, 2)}, "y")
    with torch.no_grad():
        for layer in layers:
            layer.weight.fill_(200.0)
            layer.bias.zero_()
    fits = verify.largest_activation(layers, network.inputs)
    assert (fits.layer, fits.value, fits.fits) == ("1", 160_000.0, False)
    overflown = verify.largest_activation(halve(network).module, halve(network).inputs)
    assert overflown.layer == "1" and overflown.value == float("inf") and not overflown.fits
    more = torch.nn.Sequential(*layers, torch.nn.Linear(2, 2).half(), torch.nn.LayerNorm(2).half())
    assert verify.largest_activation(more, halve(network).inputs).layer == "1"  # what follows is infinite or NaN too
    with torch.no_grad():
        layers[1].weight.fill_(1.0)
    assert verify.largest_activation(layers, halve(network).inputs) == verify.Activation("1", 800.0)


def test_half_the_networks_keep_their_activations_in_float16():
    network = halve(networks(new_family(seed=4, preset=TINY))["unet_sdm"])
    found = verify.largest_activation(network.module, network.inputs)
    assert found.fits and found.value > 0.1
    assert found.layer in dict(network.module.named_modules())
