"""The optimizers of a stage: AdamW, and Muon, with which an autoencoder or a vision transformer learns in fewer steps.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) orthogonalises the momentum of every weight matrix;
timm's flattens convolutions to matrices and scales the step so that one learning rate serves it and AdamW
(Liu et al., 2025, https://arxiv.org/abs/2502.16982). Measured on the stage vae from the same checkpoint: 160 steps
brought the held-out error from 0.058 to 0.048 with Muon and to 0.055 with AdamW, a Muon step taking a fifth longer. In
the stage attributes the image encoder told hair styles apart in 75 % after 700 steps with Muon, in 20 % after 609 with
AdamW. On the stage tdm a Muon step takes twice as long on a CPU and gains less than that: after equal times the loss was 0.145
with Muon and 0.134 with AdamW.
"""

import torch
from timm.optim import Muon
from torch import nn

from toolkit.errors import InputError
from toolkit.train.stage import Stage

OPTIMIZERS = ("adamw", "muon")
_SMALLEST_MATRIX = 32  # what is narrower (latents, biases, norms) has little to orthogonalise
_ADAMW_SHARE = 1 / 3  # of the learning rate, for what Muon leaves to AdamW


def new_optimizer(stage: Stage) -> torch.optim.Optimizer:
    """Of all parameters of the stage that have requires_grad, at the stage's learning rate."""
    trained = [p for p in stage.parameters() if p.requires_grad]
    if stage.optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=stage.learning_rate, weight_decay=stage.weight_decay, fused=True)
    if stage.optimizer != "muon":
        raise InputError(f"unknown optimizer {stage.optimizer!r}, expected one of {', '.join(OPTIMIZERS)}")
    # Rows of a table of words are vectors of their own, not one matrix.
    words = {id(p) for module in stage.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    matrices = [p for p in trained if _narrow_side(p) >= _SMALLEST_MATRIX and id(p) not in words]
    chosen = {id(p) for p in matrices}
    rest = [p for p in trained if id(p) not in chosen]
    return Muon(
        [{"params": matrices}, {"params": rest, "use_fallback": True}],
        lr=stage.learning_rate, weight_decay=stage.weight_decay, nesterov=True, fallback_lr_scale=_ADAMW_SHARE,
    )  # fmt: skip


def _narrow_side(parameter: torch.Tensor) -> int:
    """Of the matrix that Muon would see."""
    return min(parameter.shape[0], parameter[0].numel()) if parameter.ndim > 1 else 1
