"""Stages vae and decoder: pictures to latents and back."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.data.store import Dataset
from toolkit.models import Family
from toolkit.train.loop import Draw, Stage
from toolkit.train.pixels import to_image, to_pixels


class AutoencoderStage(Stage):
    """L1 + L1 of gradients, heavier on people and on fine detail, + a small KL.

    Eyes, mouths and glasses are a few dozen of 16,384 pixels: without the extra weight a smooth
    face is the cheapest answer.
    """

    name = "vae"
    steps = 6000
    batch = 16
    learning_rate = 6e-4
    weight_decay = 1e-4
    kl = 4e-4

    def __init__(self, family: Family, datasets: dict[str, Dataset], work_dir: Path) -> None:
        self.vae = family.vae.to(memory_format=torch.channels_last)
        self.vae.requires_grad_(True)
        self.train = datasets["scenes-train"]
        self.validation = datasets["scenes-validation"]
        self.scaling = family.config["scaling_factor"]

    def networks(self) -> dict[str, nn.Module]:
        return {"vae": self.vae}

    def batch_of(self, draw: Draw, batch: int) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, H, W] and whether a pixel shows a person [B, 1, H, W]."""
        images, people = [], []
        for _ in range(batch):
            index = int(draw.numpy.integers(len(self.train)))
            flip = slice(None, None, -1 if draw.numpy.random() < 0.5 else 1)
            images.append(self.train.images[index][:, flip])
            people.append(self.train.labels[index][:, flip] > 0)
        return to_pixels(np.stack(images)), torch.from_numpy(np.stack(people)[:, None]).float()

    def reconstruction(self, x: Tensor, y: Tensor, people: Tensor) -> Tensor:
        detail = (x - F.avg_pool2d(x, 5, 1, 2)).abs().mean(dim=1, keepdim=True).clamp(max=0.5)
        weight = 1 + people + 6 * detail * (0.3 + people)
        weight = weight / weight.mean()
        error = (y - x).abs()
        across = (y.diff(dim=3) - x.diff(dim=3)).abs() * weight[..., 1:]
        down = (y.diff(dim=2) - x.diff(dim=2)).abs() * weight[..., 1:, :]
        return (error * weight).mean() + across.mean() + down.mean()

    def loss(self, draw: Draw, batch: int) -> Tensor:
        x, people = self.batch_of(draw, batch)
        x = x.to(memory_format=torch.channels_last)
        posterior = self.vae.encode(x)
        y = self.vae.decode(posterior.sample(generator=draw.torch))
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return self.reconstruction(x, y.float(), people) + self.kl * kl

    def extra(self) -> dict:
        """The scaling factor, measured with the averaged weights by sample()."""
        return {"scaling_factor": self.scaling}

    @torch.no_grad()
    def sample(self, path: Path) -> None:
        x = to_pixels(self.validation.images[:64])
        with torch.autocast("cpu", torch.bfloat16):
            latents = torch.cat([self.vae.encode(part).mode() for part in x.split(16)])
            y = torch.cat([self.vae.decode(part) for part in latents.split(16)])
        self.scaling = 1 / float(latents.float().std())
        people = torch.from_numpy(self.validation.labels[:64, None] > 0)
        error = (y.float() - x).abs() / 2
        face = float((error * people).sum() / people.sum() / 3)
        print(f"\nvae: held-out error {float(error.mean()):.4f}, on people {face:.4f} (0-1), scaling {self.scaling:.4f}", flush=True)
        rows = []
        for r in range(3):
            rows += [np.concatenate(list(to_image(z[6 * r : 6 * r + 6])), axis=1) for z in (x, y)]
        Image.fromarray(np.concatenate(rows)).save(path)


class DecoderStage(AutoencoderStage):
    """Sharpens the decoder after the latents are fixed: the encoder stays as it is."""

    name = "decoder"
    learning_rate = 3e-4

    def __init__(self, family: Family, datasets: dict[str, Dataset], work_dir: Path) -> None:
        super().__init__(family, datasets, work_dir)
        self.vae.autoencoder.encoder.requires_grad_(False)
        self.vae.autoencoder.quant_conv.requires_grad_(False)
        self.fixed_scaling = family.config["scaling_factor"]

    def extra(self) -> dict:
        return {"scaling_factor": self.fixed_scaling}

    def loss(self, draw: Draw, batch: int) -> Tensor:
        x, people = self.batch_of(draw, batch)
        with torch.no_grad():
            latents = self.vae.encode(x).mode()
        # sampled latents are never exact: a little noise teaches the decoder to bear it
        latents = latents + 0.05 * draw.randn(*latents.shape) / self.fixed_scaling
        return self.reconstruction(x, self.vae.decode(latents).float(), people)
