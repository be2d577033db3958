"""Triton Python-backend model: runs the model.onnx beside it in ONNX Runtime on the CPU.

Each model's 1/model.py is a link to this file. Needs CPython 3.9 or later, numpy and onnxruntime.
"""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["intra_op_threads"]["string_value"])
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
            columns = [[_array(request, name) for request in requests] for name in self.inputs]
            feeds = {name: np.concatenate(column) for name, column in zip(self.inputs, columns)}
            results = self.session.run(self.outputs, feeds)
        except Exception as error:  # the batch's clients must hear of it; the model lives on
            failure = pb_utils.TritonError("onnxruntime: {}".format(error))
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        ends = np.cumsum([len(rows) for rows in columns[0]])[:-1]
        split = [np.split(result, ends) for result in results]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(n, rows) for n, rows in zip(self.outputs, response)])
            for response in zip(*split)
        ]


def _array(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
