"""Which layers of a UNet's graph become eight bits wide, and which stay as they are.

As NVIDIA's recipes for Stable Diffusion have it: convolutions and linear layers, which are nearly all of the
arithmetic and of the weights. What stays, for it is cheap and errors there cost most:

    norms, SiLU, GELU, residual sums    element by element; no arithmetic to save
    attention (Q K^T, softmax, ... V)   small probabilities; fused FP16 attention is the faster kernel anyway
    conv_in, conv_out                   4 channels in or out: the latents and the noise themselves
    conv_shortcut                       what a block adds its own work to, so that its error meets no norm
    timestep embedding                  one vector a row, and all blocks are steered by it
    cross attention's K and V           77 tokens; few of a text's states are many times larger than the rest, and
                                        one scale for all would leave the others, a subject's too, few of 256 levels
"""

import re
from collections import Counter
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

QUANTIZED = ("Conv", "MatMul")  # the exporter writes linear layers as MatMul, those of the timestep as Gemm
_KEPT_WEIGHTS = re.compile(r"\bconv_(in|out|shortcut)\.")


def load(path: Path) -> onnx.ModelProto:
    """With plain weights: a graph of stored16 (toolkit.export.onnx_file) has a Cast behind each, through which
    quantizers do not see."""
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    casts = [
        node
        for node in model.graph.node
        if node.op_type == "Cast" and node.input[0] in weights and node.attribute[0].i == TensorProto.FLOAT
    ]
    for cast in casts:
        weight = weights[cast.input[0]]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype("float32"), cast.output[0]))
        model.graph.node.remove(cast)
    return model


def layers(model: onnx.ModelProto, keep: str | None = None) -> dict[str, str]:
    """Names of the nodes of a QUANTIZED type → why they keep their precision, "" for those that do not.

    keep: regular expression; nodes that it finds in their name or their weights' stay too.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {tensor.name for tensor in model.graph.input}
    nodes = [node for node in model.graph.node if node.op_type in QUANTIZED]
    return {node.name: _why_kept(node, weights, inputs, keep) for node in nodes}


def _why_kept(node: onnx.NodeProto, weights: set[str], inputs: set[str], keep: str | None) -> str:
    data, weight = node.input[:2]
    if weight not in weights:
        return "attention"
    if node.op_type == "MatMul" and data in inputs:
        return "cross attention's K and V"
    if match := _KEPT_WEIGHTS.search(weight):
        return f"conv_{match[1]}"
    return "--keep" if keep and re.search(keep, f"{node.name} {weight}") else ""


def spare(model: onnx.ModelProto, names: list[str]) -> None:
    """Others than the nodes to quantize read again what was quantized for those: a skip connection begins where a
    convolution reads, and both quantizers give it the convolution's eight bits."""
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name not in names:
            node.input[:] = [_before_quantization(name, producers) for name in node.input]


def _before_quantization(name: str, producers: dict[str, onnx.NodeProto]) -> str:
    dequantize = producers.get(name)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return name
    quantize = producers.get(dequantize.input[0])  # none for weights, which are quantized in the file
    return name if quantize is None else quantize.input[0]


def quantized_types(model: onnx.ModelProto) -> Counter[str]:
    """How many QuantizeLinear and DequantizeLinear the graph has of each quantized type. model: shapes inferred."""
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    types |= {t.name: t.data_type for t in graph.initializer}
    counts: Counter[str] = Counter()
    for node in graph.node:
        side = {"QuantizeLinear": node.output, "DequantizeLinear": node.input}.get(node.op_type)
        if side:
            counts[f"{node.op_type} {TensorProto.DataType.Name(types[side[0]])}"] += 1
    return counts


def quantized_layers(model: onnx.ModelProto) -> int:
    """Nodes whose data and weights are both dequantized, so that TensorRT computes them in eight bits."""
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return sum(node.op_type in QUANTIZED and dequantized.issuperset(node.input[:2]) for node in model.graph.node)
