"""Eight bits for the two UNets: calibration data from real steps, INT8 and FP8 graphs, and what they cost.

docs/quantization.md is the guide.
"""

UNETS = ("unet_tdm", "unet_sdm")
