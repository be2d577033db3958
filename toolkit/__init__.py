"""Face-Diffuser's offline half: data, training, export, evaluation and the reference pipeline.

Nothing here runs while pictures are served. Every command is `python -m toolkit <command>`,
started in the repository root.
"""
