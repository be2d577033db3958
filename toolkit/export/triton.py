"""Triton's model configurations, from the same table as the ONNX files."""

import torch

from toolkit.export.networks import Network

MAX_BATCH_SIZE = 8
_TYPES = {torch.float32: "TYPE_FP32", torch.int64: "TYPE_INT64"}

_CONFIG = """\
# Written by `python -m toolkit export`.
name: "{name}"
backend: "python"
max_batch_size: {max_batch_size}
{tensors}
dynamic_batching {{}}
instance_group [{{ kind: KIND_CPU, count: 1 }}]
parameters {{ key: "intra_op_threads", value: {{ string_value: "{threads}" }} }}
"""


def config(name: str, network: Network, output: torch.Tensor) -> str:
    """config.pbtxt of one model; `output` is a batch of its output."""
    tensors = [_tensor("input", key, value) for key, value in network.inputs.items()]
    tensors.append(_tensor("output", network.output, output))
    return _CONFIG.format(name=name, max_batch_size=MAX_BATCH_SIZE, tensors="\n".join(tensors), threads=network.threads)


def _tensor(kind: str, name: str, batch: torch.Tensor) -> str:
    dims = list(batch.shape[1:])
    # Triton has no rank-0 rows: a scalar a row is [1] on the wire and loses that axis on the way in
    shape = f"dims: {dims}" if dims else "dims: [1], reshape: { shape: [] }"
    return f'{kind} [{{ name: "{name}", data_type: {_TYPES[batch.dtype]}, {shape} }}]'
