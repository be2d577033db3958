"""The way from weights to a served picture, at Stable Diffusion 1.5's real size and without a GPU (`check-sd15`).

    command      the stages, each in a process of its own whose memory is watched, and the verdict
    case         what is drawn, and where files lie
    weights      random weights in the authors' layout
    reference    the picture in PyTorch, straight from those weights
    serve        the picture through the gateway and a real Triton, from what `convert` made of them
    triton_model Triton's model code in this check
    compare      what must hold
"""
