"""Randomness of a training: every number follows from (seed, purpose, step, part).

The pictures of one step are drawn in equal parts, one for each worker and each accumulated
gradient. Part k is the same wherever it is computed: two workers train as one worker that
accumulates two gradients does.
"""

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


@dataclass
class Draw:
    """Randomness of one part of a step: NumPy for choices, torch (on the CPU) for tensors."""

    numpy: np.random.Generator
    torch: torch.Generator

    @staticmethod
    def of(seed: int, purpose: str, step: int, part: int = 0) -> "Draw":
        rng = np.random.default_rng([seed, zlib.crc32(purpose.encode()), step, part])
        return Draw(rng, torch.Generator().manual_seed(int(rng.integers(2**62))))

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal noise of x's shape on its device, the same numbers on every device."""
        return torch.randn(x.shape, generator=self.torch).to(x.device)

    def uniform(self, count: int, device: torch.device) -> Tensor:
        """[count] in [0, 1)."""
        return torch.rand(count, generator=self.torch).to(device)


class StepBatches(Sampler[list[int]]):
    """Row numbers of the batches of one worker, without end, beginning at any step.

    rows: of the data set; batch: rows of one part; parts: those of this worker.
    """

    def __init__(self, rows: int, batch: int, seed: int, stage: str, first_step: int, parts: range) -> None:
        self.rows, self.batch, self.seed, self.stage = rows, batch, seed, stage
        self.first_step, self.parts = first_step, parts

    def __iter__(self) -> Iterator[list[int]]:
        for step in itertools.count(self.first_step):
            for part in self.parts:
                draw = Draw.of(self.seed, f"{self.stage} rows", step, part)
                yield draw.numpy.integers(self.rows, size=self.batch).tolist()
