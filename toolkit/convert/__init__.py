"""Weights of other layouts as a Family, checked name by name, and as the folder that is served.

sources     Stable Diffusion folders, the authors' state dicts, what the toolkit writes
command     `convert`: any of these to a family's folder
"""
