"""The noise that a UNet learns to predict, and how much each timestep counts."""

import torch
from diffusers import DDIMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from toolkit.errors import InputError
from toolkit.train.draws import Draw


class NoiseSchedule:
    """A family's training noise, with the signal-to-noise ratio clipped at both ends as weight.

    Notation: z = latents, e = noise, a = alphas_cumprod[t], snr = a / (1 - a), w = snr clipped to [floor, gamma].

        prediction_type   the UNet predicts            weight
        epsilon           e                            w / snr
        v_prediction      sqrt(a) e - sqrt(1 - a) z    w / (snr + 1)
        sample            z                            w

    gamma: min-SNR (Hang et al., 2023, https://arxiv.org/abs/2303.09556). floor: truncated SNR (Salimans and Ho,
    2022, https://arxiv.org/abs/2202.00512, section 4), 1 there. With none, whatever small thing only the sentence
    tells is not learnt: where the noise hides it, at large t, an error in z is worth next to nothing, and at small t it
    can be seen. At 16x16 latents, that was the colour of clothes.
    """

    def __init__(self, scheduler: DDIMScheduler, gamma: float = 5.0, floor: float = 0.0) -> None:
        self.scheduler = scheduler
        self.prediction_type = scheduler.config.prediction_type
        self.steps = scheduler.config.num_train_timesteps
        snr = compute_snr(scheduler, torch.arange(self.steps))
        unit = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
        if self.prediction_type not in unit:
            raise InputError(f"the scheduler's prediction type {self.prediction_type!r} is none of {', '.join(unit)}")
        self._weights = snr.clamp(floor, gamma) / unit[self.prediction_type]

    def timesteps(self, draw: Draw, like: Tensor) -> Tensor:
        """One a row, uniform over the schedule, spread evenly over the batch to lower the loss's variance."""
        batch = len(like)
        spread = (torch.arange(batch, device=like.device) + draw.uniform(batch, like.device)) / batch
        return (spread * self.steps).long().clamp(max=self.steps - 1)

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.scheduler.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            return self.scheduler.get_velocity(latents, noise, timesteps)
        return latents

    def weights(self, timesteps: Tensor) -> Tensor:
        return self._weights.to(timesteps.device)[timesteps]
