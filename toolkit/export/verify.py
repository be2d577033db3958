"""An ONNX file against its PyTorch module, and what float16 does to the module itself.

ONNX Runtime on a CPU computes FP16 nodes in FP32: it shows that weights were rounded and nothing else was lost.
Whether activations stay inside float16 (65504) is seen in PyTorch, which keeps each layer's output in float16.
Kernels that accumulate in float16, as some of TensorRT's may, can only be checked on a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from toolkit.export.networks import FLOAT16_MAX, Network

ROWS = (2, 1)  # of the batches that are compared; a graph is traced with two
# Relative and absolute at once. FP16 is NVIDIA's demo's, for an engine's ONNX before it is built.
TOLERANCE = {"stored16": 1e-4, "fp32": 1e-4, "fp16": 5e-3}


@dataclass(frozen=True)
class Activation:
    """The largest of a module's layers, or the first that float16 cannot hold."""

    layer: str
    value: float

    @property
    def fits(self) -> bool:
        return self.value <= FLOAT16_MAX  # false for NaN


def rows_of(network: Network, count: int) -> dict[str, Tensor]:
    """The example inputs, repeated to `count` rows."""
    return {k: v.repeat(-(-count // 2), *[1] * (v.dim() - 1))[:count] for k, v in network.inputs.items()}


@torch.no_grad()
def expected(network: Network, rows: Sequence[int]) -> list[Tensor]:
    """PyTorch's output for each number of rows."""
    return [network.module(**rows_of(network, count)) for count in rows]


def load(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """threads: of ONNX Runtime; 0 = one a core."""
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # which grows by doubling
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


_DATATYPES = {"tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(int64)": "INT64"}


def tensors(session: onnxruntime.InferenceSession) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a file takes and gives, as toolkit.export.triton writes it: name → (datatype, dims of a row)."""
    found = (*session.get_inputs(), *session.get_outputs())
    return {tensor.name: (_DATATYPES.get(tensor.type, tensor.type), tuple(tensor.shape[1:])) for tensor in found}


def error(session: onnxruntime.InferenceSession, network: Network, outputs: Sequence[Tensor]) -> float:
    """Largest |got − expected| / (1 + |expected|) of ONNX Runtime over the batches that made `outputs`:
    at most t where every element agrees within rtol = atol = t. Infinite if an output is not finite.
    """
    largest = 0.0
    for wanted in outputs:
        feeds = {name: value.numpy() for name, value in rows_of(network, len(wanted)).items()}
        (got,) = session.run([network.output], feeds)
        gap = np.abs(got.astype(np.float32) - wanted.float().numpy()) / (1 + np.abs(wanted.float().numpy()))
        largest = max(largest, float(gap.max()) if np.isfinite(gap).all() else float("inf"))
    return largest


@torch.no_grad()
def largest_activation(module: nn.Module, inputs: dict[str, Tensor]) -> Activation:
    """Over the outputs of all layers (modules without children) for one batch."""
    found = Activation("", 0.0)

    def look(name: str):
        def hook(_module, _inputs, output) -> None:
            nonlocal found
            if isinstance(output, Tensor) and output.is_floating_point():
                value = float(output.abs().max())
                if found.fits and not value <= found.value:  # larger, or NaN
                    found = Activation(name, value if value == value else float("inf"))
        return hook  # fmt: skip

    hooks = [m.register_forward_hook(look(name)) for name, m in module.named_modules() if not list(m.children())]
    try:
        module(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found
