"""Model code of the check's Triton, in the place of every model.py: the family's own onnx_model.py, with two additions.

- One network loads or computes at a time, so that there is one busy thread pool, and memory for one network's run.
- The decoder's latents are kept, for comparison.

Needs what onnx_model.py needs.
"""

import fcntl
import importlib.util
import os

import numpy as np


class TritonPythonModel:
    def initialize(self, args):
        models = os.path.dirname(os.path.realpath(args["model_repository"]))  # the local Triton's is a link
        spec = importlib.util.spec_from_file_location("onnx_model", os.path.join(models, "onnx_model.py"))
        self.code = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.code)
        served = os.path.dirname(models)
        self.latents = os.path.join(served, "latents") if args["model_name"] == "vae_decoder" else None
        self.turn = open(os.path.join(served, "turn"), "w")
        self.model = self.code.TritonPythonModel()
        self.alone(self.model.initialize, args)

    def execute(self, requests):
        if self.latents:
            for request in requests:
                rows = self.code._rows(request, "latents")
                np.save(os.path.join(self.latents, "{}.npy".format(len(os.listdir(self.latents)))), rows)
        return self.alone(self.model.execute, requests)

    def alone(self, call, argument):
        fcntl.flock(self.turn, fcntl.LOCK_EX)
        try:
            return call(argument)
        finally:
            fcntl.flock(self.turn, fcntl.LOCK_UN)
