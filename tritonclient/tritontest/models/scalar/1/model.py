import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers with the number of dimensions in which its input reaches it."""

    def execute(self, requests):
        shapes = [pb_utils.get_input_tensor_by_name(request, "timestep").shape() for request in requests]
        outputs = [np.full((shape[0], 1), len(shape), np.int64) for shape in shapes]
        return [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("rank", y)]) for y in outputs]
