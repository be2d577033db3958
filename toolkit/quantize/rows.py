"""Calibration data of one UNet: an .npz whose names are the graph's inputs, each with all rows on its first axis.

    sample                 [R, 4, h, w]
    timestep               [R], FP32
    encoder_hidden_states  [R, L, D]

in the types of the graph's inputs. The two rows of one step's guidance stand together: base, then cond. NVIDIA's
ModelOpt reads the same file (modelopt.onnx.quantization --calibration_data_path), and refuses any further name.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from toolkit.errors import InputError

Rows = dict[str, np.ndarray]


def inputs_of(graph: Path) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of one row of each input."""
    model = onnx.load(graph, load_external_data=False)
    tensors = {i.name: i.type.tensor_type for i in model.graph.input}
    return {
        name: (onnx.helper.tensor_dtype_to_np_dtype(t.elem_type), tuple(d.dim_value for d in t.shape.dim[1:]))
        for name, t in tensors.items()
    }


def write(path: Path, rows: Rows) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **rows)
    os.replace(part, path)


def read(path: Path, graph: Path) -> Rows:
    """Raises InputError for data that is not the graph's."""
    again = "record it again with `python -m toolkit calibrate`"
    try:
        with np.load(path, allow_pickle=False) as file:
            rows = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; {again}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is cut or no .npz ({error}); {again}") from error
    wanted = inputs_of(graph)
    if set(rows) != set(wanted):
        raise InputError(f"{path} holds {', '.join(sorted(rows))}, but {graph} takes {', '.join(wanted)}")
    count = len(rows["timestep"]) if rows["timestep"].ndim else 0
    if not count or count % 2:
        raise InputError(f"{path} holds {count} rows; expected pairs of a step's two rows; {again}")
    for name, (dtype, shape) in wanted.items():
        value = rows[name]
        if value.dtype != dtype or value.shape != (count, *shape):
            raise InputError(
                f"{path}: {name} is {value.dtype} {list(value.shape)}, but {graph} takes {dtype} {[count, *shape]}; "
                "calibrate the family whose graphs are to be quantized"
            )
        if not np.isfinite(value).all():
            raise InputError(f"{path}: {name} holds values that are not finite; {again}")
    return rows


def steps_of(rows: Rows) -> Iterator[Rows]:
    """The two rows of each step."""
    for k in range(0, len(rows["timestep"]), 2):
        yield {name: value[k : k + 2] for name, value in rows.items()}
