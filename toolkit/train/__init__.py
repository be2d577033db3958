"""Training stages, in order: vae, attributes, captions, tdm, sdm, and decoder for spare time at the end.

command     `train`: options, processes, one stage or all
start       where a training starts: random weights, a family, or a Stable Diffusion folder
pictures    what the stages learn from: the generated world, or a folder of real pictures
latents     latents of a whole data set, encoded once
stage       what a stage is; stages/ holds them
loop        steps, averaging, checkpoints and resuming, the same for all stages
checkpoints what a work directory holds, and the family that its checkpoints make
"""
