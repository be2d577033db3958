"""What TensorRT's ONNX parser takes, known without a GPU.

The list of operators is data with its source and version (tensorrt_operators.json). TensorRT 11 reads
what 10.15 reads; engines are built where they serve, so this is a warning ahead, not a proof.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

OPERATORS = Path(__file__).with_name("tensorrt_operators.json")


@cache
def supported() -> dict:
    """tensorrt (version), opsets [lowest, highest], source, operators (name → types of tensors)."""
    return json.loads(OPERATORS.read_text(encoding="utf-8"))


def faults(model: onnx.ModelProto) -> list[str]:
    """Why TensorRT would refuse the graph, a sentence a kind of node; empty if it should not.

    model: with shapes inferred where types of inner tensors are to be checked too.
    """
    known = supported()
    found = [_opset(entry, known["opsets"]) for entry in model.opset_import]
    types = _types(model.graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        found.append(_operator(node, types, known["operators"]))
        if node.op_type in _QUANTIZING:
            found.append(_quantization(node, types, constants, known["operators"]))
    return sorted({fault for fault in found if fault})


def _opset(entry: onnx.OperatorSetIdProto, opsets: list[int]) -> str:
    if entry.domain not in ("", "ai.onnx"):
        return f"operators of {entry.domain}: TensorRT reads ONNX's own"
    low, high = opsets
    return "" if low <= entry.version <= high else f"opset {entry.version}: TensorRT reads {low} to {high}"


def _operator(node: onnx.NodeProto, types: dict[str, str], known: dict[str, list[str]]) -> str:
    name = node.op_type
    if name not in known:
        return f"{name}: no operator of TensorRT"
    allowed = known[name]
    data = node.input[:1] if name in _QUANTIZING else node.output
    data = [types[tensor] for tensor in data if tensor in types]
    if wrong := sorted({t for t in data if t not in allowed and not _indices(name)}):
        return f"{name} of {', '.join(wrong)}: TensorRT has it of {', '.join(allowed)}"
    return next(_restrictions(node), "")


# Their other side is of another type than their data: quantized, or what was quantized.
_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")


def _quantization(node: onnx.NodeProto, types: dict[str, str], constants: dict, known: dict[str, list[str]]) -> str:
    """TensorRT quantizes symmetrically, to the types that it dequantizes."""
    quantized = known["DequantizeLinear"]
    to = types.get(node.output[0]) if node.op_type == "QuantizeLinear" else None
    if to and to not in quantized:
        return f"QuantizeLinear to {to}: TensorRT has {', '.join(quantized)}"
    if len(node.input) < 3 or not node.input[2]:
        return ""
    if node.input[2] not in constants:
        return f"{node.op_type} with a computed zero point: TensorRT takes 0"
    zero_point = numpy_helper.to_array(constants[node.input[2]]).astype(np.float32)
    return f"{node.op_type} with a zero point other than 0: TensorRT has 0 alone" if zero_point.any() else ""


def _indices(name: str) -> bool:
    """Operators whose output is of another kind than their data: positions, shapes and truths."""
    return name in ("Shape", "Size", "ArgMax", "ArgMin", "NonZero", "Equal", "Less", "LessOrEqual", "Greater",
                    "GreaterOrEqual", "IsNaN", "IsInf", "TopK")  # fmt: skip


def _restrictions(node: onnx.NodeProto) -> Iterator[str]:
    """Of the operators that diffusion networks are made of, as the list words them."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "LayerNormalization" and len([o for o in node.output if o]) > 1:
        yield "LayerNormalization with more than one output: TensorRT has the first alone"
    if node.op_type == "ScatterND" and given.get("reduction", b"none") != b"none":
        yield f"ScatterND with reduction {given['reduction'].decode()}: TensorRT has none"
    if node.op_type == "Resize":
        if (mode := given.get("mode", b"nearest")) not in (b"nearest", b"linear"):
            yield f"Resize by {mode.decode()}: TensorRT has nearest and linear"
        if given.get("antialias"):
            yield "Resize with antialiasing: TensorRT has none"


def _types(graph: onnx.GraphProto) -> dict[str, str]:
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {v.name: v.type.tensor_type.elem_type for v in values} | {t.name: t.data_type for t in graph.initializer}
    return {name: TensorProto.DataType.Name(number) for name, number in types.items()}
