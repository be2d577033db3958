"""A UNet's graph in INT8, by ONNX Runtime's static quantization.

What TensorRT's explicit quantization asks for: QuantizeLinear and DequantizeLinear around the inputs of weighted
layers, never their outputs; zero points of 0; a scale a channel for weights, which are stored as INT8, and one a
tensor for activations, from the largest value that the calibration data showed; biases as they were.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

from toolkit.export.onnx_file import EXTERNAL_FROM
from toolkit.quantize import graph
from toolkit.quantize.rows import Rows, steps_of

_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,  # to INT32 otherwise, which TensorRT cannot dequantize
    "OpTypesToExcludeOutputQuantization": list(graph.QUANTIZED),
}


def quantize(model: onnx.ModelProto, names: list[str], data: Rows, target: Path) -> None:
    """model: as graph.load gives it. names: of the nodes to quantize."""
    size = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it asks for its own preprocessing, which would rewrite the graph
    try:
        quantize_static(
            model,
            target,
            _Reader(steps_of(data)),
            op_types_to_quantize=list(graph.QUANTIZED),
            nodes_to_quantize=names,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            # not entropy or percentiles: they keep every activation of all rows in memory
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=size >= EXTERNAL_FROM,
            extra_options=_OPTIONS,
        )
    finally:
        logging.disable(level)


class _Reader(CalibrationDataReader):
    def __init__(self, steps: Iterator[Rows]) -> None:
        self._steps = steps

    def get_next(self) -> Rows | None:
        return next(self._steps, None)
