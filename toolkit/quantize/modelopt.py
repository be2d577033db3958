"""A UNet's graph in FP8 or INT8 by NVIDIA's ModelOpt, in an environment of its own: it pins other versions of
onnx and onnxruntime than the toolkit's (docs/adr/0012)."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import onnx
from onnx import TensorProto

from toolkit.errors import InputError
from toolkit.export.onnx_file import EXTERNAL_FROM
from toolkit.quantize import graph

# Behind every node's name. What ModelOpt leaves out by itself it takes for beginnings of names, so that node_linear
# would take node_linear_3 with it.
SUFFIX = "/"


def quantize(python: str, mode: str, model: onnx.ModelProto, names: list[str], data: Path, target: Path) -> None:
    """python: interpreter of an environment that holds nvidia-modelopt[onnx]. mode: fp8 or int8. model: as graph.load
    gives it; its nodes' names get SUFFIX. names: of the nodes to quantize. data: a file of rows.write.

    Raises InputError when ModelOpt cannot be run or fails; it has said why on stderr.
    """
    if not shutil.which(python):
        raise InputError(f"--modelopt {python} is no program; expected the python of an environment with ModelOpt")
    sample = next(i for i in model.graph.input if i.name == "sample")
    precision = "fp16" if sample.type.tensor_type.elem_type == TensorProto.FLOAT16 else "fp32"
    large = sum(tensor.ByteSize() for tensor in model.graph.initializer) >= EXTERNAL_FROM
    for node in model.graph.node:
        node.name += SUFFIX
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        onnx.save_model(model, source, save_as_external_data=large)
        command = [
            *(python, "-m", "modelopt.onnx.quantization", "--onnx_path", source, "--output_path", target.resolve()),
            *("--quantize_mode", mode, "--calibration_data_path", data.resolve()),
            # FP8's scales are made of INT8's, which holds for the largest value alone
            *("--calibration_method", "max", "--calibration_eps", "cpu"),
            *("--nodes_to_quantize", f"^({'|'.join(map(re.escape, names))}){SUFFIX}$"),
            *("--op_types_to_quantize", *graph.QUANTIZED, "--disable_mha_qdq", "--dq_only"),
            *("--high_precision_dtype", precision, "--log_level", "WARNING"),
        ]
        done = subprocess.run(command + ["--use_external_data_format"] * large, check=False)
    if done.returncode or not target.exists():
        raise InputError(f"ModelOpt ended with {done.returncode} and wrote no {target.name}; see its messages above")
