"""Eight bits for the two UNets: calibration data from real steps, INT8 graphs, and what they cost (docs/quantization.md)."""

UNETS = ("unet_tdm", "unet_sdm")
