"""Eight bits for the two UNets: calibration data from real steps, INT8 and FP8 graphs, and what they cost.

docs/quantization.md is the guide.
"""

from pathlib import Path

UNETS = ("unet_tdm", "unet_sdm")


def graphs(family: Path) -> Path:
    """The folder of the family's ONNX files: those that engines are built from, in FP16, where there are any."""
    served = family / "onnxruntime"
    return served if (served / UNETS[0] / "1" / "model.onnx").exists() else family / "models"
