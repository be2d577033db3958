"""What the stages of the two UNets share: latents, prompts and the noise loss."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.models import Family
from toolkit.train.draws import Draw
from toolkit.train.noise import NoiseSchedule
from toolkit.train.pictures import Examples
from toolkit.train.pixels import to_pixels
from toolkit.train.prompts import encode_prompts
from toolkit.train.stage import Data, Stage


class NoiseStage(Stage):
    builds_on = ("vae",)
    reads_latents = True
    null: float  # share of rows with the empty prompt, for guidance
    snr_floor = 1.0  # see NoiseSchedule
    mask_weight = 2.0  # how much more a subject's pixel counts than the scene's
    SETTINGS = (*Stage.SETTINGS, "null", "snr_floor", "mask_weight")

    def __init__(self, family: Family, data: Data, settings: dict | None = None) -> None:
        super().__init__(family, data, settings)
        self.schedule = NoiseSchedule(family.scheduler, floor=self.snr_floor)
        self.prompts = encode_prompts(family, data.train.captions)
        self.null_ids = torch.tensor(encode_prompts(family, [""])[0].input_ids)

    def new_examples(self, **columns) -> Examples:
        """Rows with prompt and masks, with latents where they were encoded before, else with the pictures themselves."""
        columns["labels"] = self.data.train.labels
        if self.data.latents is not None:
            columns["latents"] = lambda i: np.array(self.data.latents[i])
        else:
            self.vae = self.family.vae
            columns["images"] = self.data.train.image
        return Examples(len(self.prompts), input_ids=lambda i: torch.tensor(self.prompts[i].input_ids), **columns)

    def latents(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, 4, h, w] of unit variance."""
        if "latents" in batch:
            return batch["latents"].float()
        with torch.no_grad():
            mean = self.vae.encode(to_pixels(batch["images"])).mode()
        return mean.float() * self.family.config["scaling_factor"]

    def masks(self, batch: dict[str, Tensor], latents: Tensor) -> Tensor:
        """[B, S, h, w]: how much of a latent's pixel shows the subject of each slot, in [0, 1]."""
        labels = batch["labels"].unsqueeze(1)
        subjects = torch.arange(1, self.family.preset.max_subjects + 1, device=labels.device).view(1, -1, 1, 1)
        return F.interpolate((labels == subjects).float(), size=latents.shape[-2:], mode="area")

    def noise_loss(self, unet: nn.Module, latents: Tensor, states: Tensor, draw: Draw, masks: Tensor) -> Tensor:
        """Mean squared error of the prediction, each row weighted by its timestep, each pixel by what it shows."""
        noise = draw.normal_like(latents)
        timesteps = self.schedule.timesteps(draw, latents)
        predicted = unet(self.schedule.noisy(latents, noise, timesteps), timesteps, states).sample
        error = (predicted.float() - self.schedule.target(latents, noise, timesteps)).square()
        weight = 1 + self.mask_weight * masks.sum(dim=1, keepdim=True)
        error = error * weight / weight.mean()
        return (error.mean(dim=(1, 2, 3)) * self.schedule.weights(timesteps)).mean()
