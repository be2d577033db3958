"""Training stages, in order: vae, attributes, tdm, sdm, and decoder for spare time at the end.

loop        steps, checkpoints, averaging and resuming, the same for all stages
stages      the stages by name
checkpoints what a work directory holds, and the family that its checkpoints make
"""
