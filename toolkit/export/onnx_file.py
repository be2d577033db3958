"""One network to one ONNX file: FP16 weights, FP32 arithmetic, the same bytes every time."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from toolkit.export.networks import Network
from toolkit.export.weights import PARAMETERS, PRESET, locate
from toolkit.models import Preset

OPSET = 20
_SMALL = 64  # elements; below, a cast costs more bytes than it saves


def write(network: Network, path: Path, preset: Preset) -> None:
    module = network.module.eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.onnx.export(
        module,
        kwargs=network.inputs,
        dynamo=True,
        opset_version=OPSET,
        output_names=[network.output],
        dynamic_shapes={name: {0: batch} for name in network.inputs},
        verbose=False,
    )
    model = program.model_proto
    _halve(model.graph)
    _strip(model)
    metadata = {PARAMETERS: locate(module, model), PRESET: asdict(preset)}
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _halve(graph: onnx.GraphProto) -> None:
    """Stores FP32 initializers as FP16 with a Cast, which ONNX Runtime folds when it loads.

    Only where no bit is lost: constants of the graph itself (frequencies of the timestep
    embedding) keep their precision.
    """
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < _SMALL or not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [value for value in graph.value_info if value.name not in {cast.output[0] for cast in casts}]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _strip(model: onnx.ModelProto) -> None:
    """Drops what the exporter says about its source: stack traces with paths of this machine."""
    parts = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output]
    parts += [*model.graph.value_info, *model.graph.initializer, *model.functions]
    for part in parts:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
