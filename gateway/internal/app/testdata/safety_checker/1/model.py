"""A safety checker for tests: bright pictures are not safe for work. Tensors cross as DLPack (see model_repository/mini)."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([score(request)]) for request in requests]


def score(request):
    pixels = np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "pixel_values"))
    return pb_utils.Tensor.from_dlpack("nsfw_score", pixels.mean(axis=(1, 2, 3), dtype=np.float32)[:, None].copy())
