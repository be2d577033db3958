"""A UNet's graph in FP8 or INT8 by NVIDIA's ModelOpt, in an environment of its own: it pins other versions of
onnx and onnxruntime than the toolkit's (docs/adr/0012)."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import TensorProto

from toolkit.errors import InputError
from toolkit.export.onnx_file import EXTERNAL_FROM
from toolkit.quantize import graph


def quantize(python: str, mode: str, model: onnx.ModelProto, keep: Iterable[str], data: Path, target: Path) -> None:
    """python: interpreter of an environment that holds nvidia-modelopt[onnx]. mode: fp8 or int8. data: of rows.write.

    Raises InputError when ModelOpt cannot be run or fails; it has said why on stderr.
    """
    if not shutil.which(python):
        raise InputError(f"--modelopt {python} is no program; expected the python of an environment with ModelOpt")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        large = sum(tensor.ByteSize() for tensor in model.graph.initializer) >= EXTERNAL_FROM
        onnx.save_model(model, source, save_as_external_data=large)
        done = subprocess.run(command(python, mode, model, keep, source, data, target, large), check=False)
    if done.returncode or not target.exists():
        raise InputError(f"ModelOpt ended with {done.returncode} and wrote no {target.name}; see its messages above")


def command(
    python: str,
    mode: str,
    model: onnx.ModelProto,
    keep: Iterable[str],
    source: Path,
    data: Path,
    target: Path,
    large: bool = False,
) -> list[str]:
    sample = next(i for i in model.graph.input if i.name == "sample")
    half = sample.type.tensor_type.elem_type == TensorProto.FLOAT16
    return [
        *(python, "-m", "modelopt.onnx.quantization", "--onnx_path", str(source), "--output_path", str(target)),
        *("--quantize_mode", mode, "--calibration_data_path", str(data.resolve())),
        # FP8 scales are made of INT8's, which holds for the largest value alone; entropy keeps every activation
        *("--calibration_method", "max", "--calibration_eps", "cpu"),
        *("--op_types_to_quantize", *graph.QUANTIZED, "--disable_mha_qdq"),
        *("--nodes_to_exclude", f"^({'|'.join(map(re.escape, keep))})$"),
        *("--high_precision_dtype", "fp16" if half else "fp32", "--log_level", "WARNING"),
        *(["--use_external_data_format"] if large else []),
    ]
