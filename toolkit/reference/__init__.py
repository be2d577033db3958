"""Face-Diffuser's sampling in Python, to be read beside the paper and to judge the Go gateway.

Noise, tokens and pixels come from PyTorch, transformers and Pillow; nothing from Go.
"""
