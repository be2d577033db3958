"""One network to one ONNX file, the same bytes every time.

    precision  weights  arithmetic  for
    stored16   FP16     FP32        small families that are committed: half the bytes, and ONNX Runtime
                                    folds the casts when it loads
    fp32       FP32     FP32        ONNX Runtime on a CPU
    fp16       FP16     FP16        GPUs: TensorRT builds strongly typed engines, so precision must stand
                                    in the graph (TensorRT 11 has no other way)

In fp16 every floating tensor is FP16, on the wire too; timesteps alone stay FP32, which counts to 999
exactly and is what the embedding is computed in.
"""

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from toolkit.export.networks import Network
from toolkit.export.weights import PARAMETERS, PRESET, locate
from toolkit.models import Preset

Precision = Literal["stored16", "fp32", "fp16"]
OPSET = 20  # TensorRT reads 9 to 24, ONNX Runtime more; 20 is the first with Gelu
# A protobuf message holds 2 GiB at most, and writing and checking one takes its size several times over in memory.
# Larger weights lie in a second file beside the graph.
EXTERNAL_FROM = 2**30
DATA = ".data"
_SMALL = 64  # elements; below, a cast costs more bytes than it saves


def write(network: Network, path: Path, preset: Preset, precision: Precision = "stored16") -> None:
    """Into path, and path + ".data" where the weights would not fit; what lay there before goes first.

    network: of that precision already (networks.halve for fp16).
    """
    module = network.module.eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        # That all inputs share one batch is meant.
        warnings.filterwarnings("ignore", message="# The axis name: batch will not be used")
        program = torch.onnx.export(
            module,
            kwargs=network.inputs,
            dynamo=True,
            opset_version=OPSET,
            output_names=[network.output],
            # example inputs have two rows: a dimension of one would be taken for a constant
            dynamic_shapes={name: {0: batch} for name in network.inputs},
            verbose=False,
        )
    metadata = {PRESET: asdict(preset)}
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.with_name(path.name + DATA)
    data.unlink(missing_ok=True)
    if precision != "stored16" and sum(p.nbytes for p in module.parameters()) >= EXTERNAL_FROM:
        _write_external(program, path, data, metadata)
        return
    model = program.model_proto
    if precision == "stored16":
        _halve(model.graph)
        metadata[PARAMETERS] = locate(module, model)
    _finish(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _write_external(program: torch.onnx.ONNXProgram, path: Path, data: Path, metadata: dict) -> None:
    program.save(path, external_data=True)
    model = onnx.load(path, load_external_data=False)
    if not data.exists():
        raise RuntimeError(f"the exporter left no {data}")
    for tensor in model.graph.initializer:
        if external_data_helper.uses_external_data(tensor) and _location(tensor) != data.name:
            raise RuntimeError(f"the exporter put {tensor.name} into {_location(tensor)}, not {data.name}")
    _finish(model, metadata)
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))  # by path: the whole would not fit one message


def _location(tensor: onnx.TensorProto) -> str:
    return next(entry.value for entry in tensor.external_data if entry.key == "location")


def _finish(model: onnx.ModelProto, metadata: dict) -> None:
    _strip(model)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})


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
