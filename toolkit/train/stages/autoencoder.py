"""Stages vae and decoder: pictures to latents and back."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from toolkit.models import Family
from toolkit.train.draws import Draw
from toolkit.train.launch import half_precision
from toolkit.train.pictures import Examples
from toolkit.train.pixels import to_image, to_pixels
from toolkit.train.stage import Data, Stage


class AutoencoderStage(Stage):
    """L1 + half L1 of gradients, heavier on people and on fine detail, + a small KL.

    Eyes, mouths and glasses are a few dozen of 16,384 pixels: without the extra weight a smooth
    face is the cheapest answer.

    From an exported family without encoder, a new encoder first learns to invert the decoder,
    which stands still for `inversion` of the stage: the latent space stays the one that both
    UNets know.
    """

    name = "vae"
    steps = 5000
    batch = 8
    optimizer = "muon"
    learning_rate = 3e-3
    weight_decay = 1e-4
    kl = 2e-4
    inversion = 0.15

    def __init__(self, family: Family, data: Data, settings: dict | None = None) -> None:
        super().__init__(family, data, settings)
        self.vae = family.vae.to(memory_format=torch.channels_last).requires_grad_(True)
        self.examples = Examples(len(data.train.captions), images=data.train.image, labels=data.train.labels)
        self.inverts = bool(family.config.get("random_encoder"))
        self.measures_scaling = family.config.get("from") is None
        self.scaling = family.config["scaling_factor"]

    def begin_step(self, progress: float) -> None:
        if self.inverts:
            learns = progress >= self.inversion
            for network in (self.vae.autoencoder.decoder, self.vae.autoencoder.post_quant_conv):
                network.requires_grad_(learns)

    def reconstruction(self, x: Tensor, y: Tensor, people: Tensor) -> Tensor:
        detail = (x - F.avg_pool2d(x, 5, 1, 2)).abs().mean(dim=1, keepdim=True).clamp(max=0.5)
        weight = 1 + people + 4 * detail * (0.3 + people)
        weight = weight / weight.mean()
        error = ((y - x).abs() * weight).mean()
        across = ((y.diff(dim=3) - x.diff(dim=3)).abs() * weight[..., 1:]).mean()
        down = ((y.diff(dim=2) - x.diff(dim=2)).abs() * weight[..., 1:, :]).mean()
        return error + 0.5 * (across + down)

    def pictures(self, batch: dict[str, Tensor], draw: Draw) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, H, W] in [-1, 1], half of them mirrored, and whether a pixel shows a person
        [B, 1, H, W]."""
        x, people = to_pixels(batch["images"]), (batch["labels"] > 0).unsqueeze(1).float()
        mirrored = (draw.uniform(len(x), x.device) < 0.5).view(-1, 1, 1, 1)
        x, people = torch.where(mirrored, x.flip(3), x), torch.where(mirrored, people.flip(3), people)
        return x.contiguous(memory_format=torch.channels_last), people

    def forward(self, batch: dict[str, Tensor], draw: Draw) -> Tensor:
        x, people = self.pictures(batch, draw)
        posterior = self.vae.encode(x)
        y = self.vae.decode(posterior.sample(generator=draw.torch))
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return self.reconstruction(x, y.float(), people) + self.kl * kl

    def family_config(self) -> dict:
        """The scaling factor of a new latent space, as sample() measured it; an old one keeps its
        own, which both UNets know."""
        return {"scaling_factor": self.scaling}

    def restore_config(self, config: dict) -> None:
        self.scaling = config["scaling_factor"]

    def sample(self, path: Path) -> dict[str, float]:
        """Mean absolute error (0-1) on held-out pictures and on their people; pictures above what
        became of them."""
        pictures = self.data.validation
        count = min(64, len(pictures.captions))
        x = to_pixels(np.stack([pictures.image(i) for i in range(count)]))
        people = torch.from_numpy(np.stack([pictures.labels(i) for i in range(count)]) > 0).unsqueeze(1)
        latents, decoded = [], []
        with half_precision(self.device):
            for part in x.split(16):
                latents.append(self.vae.encode(part.to(self.device)).mode().float().cpu())
                decoded.append(self.vae.decode(latents[-1].to(self.device)).float().cpu())
        y = torch.cat(decoded).clamp(-1, 1)  # as a picture is
        if self.measures_scaling:
            self.scaling = 1 / float(torch.cat(latents).std())
        rows = []
        columns = min(6, count)
        for start in range(0, min(18, count // columns * columns), columns):
            rows += [np.concatenate(list(to_image(z[start : start + columns])), axis=1) for z in (x, y)]
        Image.fromarray(np.concatenate(rows)).save(path)
        error = (y - x).abs() / 2
        on_people = (error * people).sum() / (3 * people.sum()).clamp(min=1)
        return {"error": round(float(error.mean()), 4), "error_on_people": round(float(on_people), 4)}


class DecoderStage(AutoencoderStage):
    """Sharpens the decoder after the latents are fixed: the encoder stays as it is."""

    name = "decoder"
    builds_on = ("vae",)
    steps = 4000
    learning_rate = 1e-3

    def __init__(self, family: Family, data: Data, settings: dict | None = None) -> None:
        super().__init__(family, data, settings)
        self.vae.autoencoder.encoder.requires_grad_(False)
        self.vae.autoencoder.quant_conv.requires_grad_(False)
        self.measures_scaling = False

    def forward(self, batch: dict[str, Tensor], draw: Draw) -> Tensor:
        x, people = self.pictures(batch, draw)
        with torch.no_grad():
            latents = self.vae.encode(x).mode()
        # sampled latents are never exact: a little noise teaches the decoder to bear it
        latents = latents + 0.05 * draw.normal_like(latents) / self.scaling
        return self.reconstruction(x, self.vae.decode(latents).float(), people)
