"""What a stage adds to the loop: networks, examples, a loss, and a picture of how far it is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolkit.errors import InputError
from toolkit.models import Family
from toolkit.train.draws import Draw
from toolkit.train.pictures import Examples, Pictures, digest_of


@dataclass(frozen=True)
class Data:
    """latents: [N, 4, h, w] float16 of the training pictures, times the scaling factor; None = encode
    the pictures of every batch."""

    train: Pictures
    validation: Pictures
    latents: np.ndarray | None = None


class NoLabelsError(InputError):
    """The pictures lack the labels that a stage learns from; `train all` leaves it out."""


class Stage(nn.Module, ABC):
    """A module whose forward is its loss, so that accelerate can wrap it whole.

    Networks of the family are attributes under the family's own names; what has requires_grad is
    trained. The class's numbers are defaults: `settings` replaces those that SETTINGS names.
    """

    name: str
    steps: int
    batch: int  # pictures a step, over all workers
    optimizer = "adamw"  # see toolkit.train.optimizer
    learning_rate: float
    weight_decay = 1e-2
    ema_decay = 0.999
    warmup = 100
    sample_steps = 25  # DDIM steps of sample()'s pictures, where it makes any
    builds_on: ClassVar = ()  # earlier stages whose weights this one reads
    recipe = "scenes"  # of the generated world
    reads_latents = False
    SETTINGS: ClassVar = ("steps", "batch", "optimizer", "learning_rate", "weight_decay", "ema_decay")

    examples: Examples

    def __init__(self, family: Family, data: Data, settings: dict | None = None) -> None:
        super().__init__()
        self.family, self.data = family, data
        for name, value in (settings or {}).items():
            if name not in self.SETTINGS:
                raise InputError(f"stage {self.name} has no setting {name}; it has {', '.join(self.SETTINGS)}")
            setattr(self, name, value)

    @abstractmethod
    def forward(self, batch: dict[str, Tensor], draw: Draw) -> Tensor:
        """Scalar loss of one part of a step; batch holds rows of `examples`, on the device."""

    def begin_step(self, progress: float) -> None:
        """Called before each step; progress in [0, 1) of the stage's steps or time."""

    def sample(self, path: Path) -> dict[str, float]:
        """Writes a picture that shows how far the averaged weights are (called with them loaded);
        returns what it measured on held-out data."""

    def family_config(self) -> dict:
        """Entries of the family's config that change with the averaged weights."""
        return {}

    def setup(self) -> dict:
        """What a resumed training must have in common with its first run to reach the same weights."""
        settings = {name: getattr(self, name) for name in self.SETTINGS if name != "steps"}
        return settings | {"pictures": digest_of(self.data.train), "built_on": self.built_on()}

    def built_on(self) -> dict[str, int]:
        """Steps of the earlier stages whose weights this one reads."""
        return {r["stage"]: r["steps"] for r in self.family.config["trained"] if r["stage"] in self.builds_on}

    def restore_config(self, config: dict) -> None:
        """Takes up what family_config() gave to the checkpoint that training goes on from."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> "Stage":
        """Frozen networks stay in evaluation mode."""
        super().train(mode)
        for network in self.children():
            if not any(p.requires_grad for p in network.parameters()):
                network.eval()
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Trained networks keep their inputs only and compute the rest again for the gradients."""
        for network in (n for n in self.modules() if any(p.requires_grad for p in n.parameters())):
            if isinstance(network, ModelMixin):
                network.enable_gradient_checkpointing()
            elif isinstance(network, PreTrainedModel):
                network.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
