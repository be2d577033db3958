import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            a = np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "a"))
            b = np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "b"))
            outputs = {"sum": a + b, "difference": a - b}
            tensors = [pb_utils.Tensor.from_dlpack(name, y) for name, y in outputs.items()]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
