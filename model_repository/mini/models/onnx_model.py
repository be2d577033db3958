"""Triton Python-backend model: runs the model.onnx beside it in ONNX Runtime on the CPU.

Each model's 1/model.py is a link to this file. Needs CPython 3.9 or later, numpy and onnxruntime.

Tensors cross between Triton and NumPy as DLPack. The backend's own as_numpy() and Tensor(name,
array) are compiled against NumPy 1: with NumPy 2, the only one for CPython 3.13, they take every
element for 0 bytes wide, and so give wrong values without an error.
"""

import ctypes
import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["intra_op_threads"])
        options.enable_cpu_mem_arena = parameters.get("memory_arena") != "off"  # else it keeps its largest run's memory
        options.inter_op_num_threads = 1
        # Six such processes share the machine: idle threads must sleep, not wait in a loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests):
        """One run for the rows of all requests of a dynamic batch; a response each, in order."""
        try:
            columns = [[_rows(request, name) for request in requests] for name in self.inputs]
            feeds = {name: np.concatenate(column) for name, column in zip(self.inputs, columns)}
            results = self.session.run(self.outputs, feeds)
        except Exception as error:  # the batch's clients must hear of it; the model lives on
            failure = pb_utils.TritonError("onnxruntime: {}".format(error))
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        ends = np.cumsum([len(rows) for rows in columns[0]])[:-1]
        split = [np.split(result, ends) for result in results]
        return [
            pb_utils.InferenceResponse([_tensor(name, rows) for name, rows in zip(self.outputs, response)])
            for response in zip(*split)
        ]


def _rows(request, name):
    return np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name))


def _tensor(name, rows):
    capsule = rows.__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    # The backend renames what it took to "used_dlpack"; NumPy looks for DLPack's own name when the
    # capsule goes and complains in the log about any other.
    _SET_NAME(capsule, _USED)
    return tensor


_USED = b"used_dltensor"  # the capsule keeps the pointer
_SET_NAME = ctypes.pythonapi.PyCapsule_SetName
_SET_NAME.argtypes = [ctypes.py_object, ctypes.c_char_p]
