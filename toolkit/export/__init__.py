"""Networks to ONNX, with the names, types and shapes of the contract with Triton."""
