import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "milliseconds")
            time.sleep(np.from_dlpack(x).max() / 1000)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("slept", x.to_dlpack())]))
        return responses
