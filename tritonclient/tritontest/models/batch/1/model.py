import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers with the number of rows of the execution that a row was part of."""

    def execute(self, requests):
        rows = [pb_utils.get_input_tensor_by_name(request, "x").shape()[0] for request in requests]
        total = sum(rows)
        outputs = [np.full((n, 1), total, np.int64) for n in rows]
        return [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("rows", y)]) for y in outputs]
