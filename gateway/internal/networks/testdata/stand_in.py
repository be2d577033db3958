"""Stands in for a network that only a GPU runs: takes and gives the tensors of its configuration.

Where rows have a timestep, a row's output is its first input plus its timestep; elsewhere it is zero. The
number of rows of each execution goes to executions.txt beside the model's versions.
"""

import json
import os

import numpy as np
import triton_python_backend_utils as pb_utils

DTYPES = {"TYPE_FP16": np.float16, "TYPE_FP32": np.float32}


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.output = config["output"][0]
        self.log = os.path.join(args["model_repository"], "executions.txt")

    def execute(self, requests):
        responses = [self.run(request) for request in requests]
        with open(self.log, "a") as log:
            log.write("{}\n".format(sum(rows for rows, _ in responses)))
        return [pb_utils.InferenceResponse([tensor]) for _, tensor in responses]

    def run(self, request):
        inputs = {name: np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name)) for name in self.inputs}
        first = inputs[self.inputs[0]]
        dims = [int(d) for d in self.output["dims"]]
        result = np.zeros([len(first), *dims], DTYPES[self.output["data_type"]])
        if "timestep" in inputs:
            (rows,) = inputs["timestep"].shape  # a scalar a row
            result += first + inputs["timestep"].reshape(rows, 1, 1, 1).astype(first.dtype)
        return len(first), pb_utils.Tensor.from_dlpack(self.output["name"], result.__dlpack__())
