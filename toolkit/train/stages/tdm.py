"""Stage tdm: the scene model (TDM) and its text encoder, together, on scene-rich data."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.data.store import Dataset
from toolkit.models import Family
from toolkit.models.family import new_scheduler
from toolkit.reference.prompt import encode
from toolkit.train.latents import encode_dataset
from toolkit.train.loop import Draw, Stage
from toolkit.train.preview import Method, Request, generate, picture_grid


class NoiseSchedule:
    """Stable Diffusion 1.5's training noise, with min-SNR weights (Hang et al., 2023)."""

    def __init__(self, gamma: float = 5.0) -> None:
        self.alphas_cumprod = new_scheduler().alphas_cumprod
        snr = self.alphas_cumprod / (1 - self.alphas_cumprod)
        self.weights = snr.clamp(max=gamma) / snr

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        alpha = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def timesteps_of(draw: Draw, batch: int) -> Tensor:
    """Uniform over the schedule, spread evenly over the batch to lower the loss's variance."""
    spread = (torch.arange(batch) + torch.rand(batch, generator=draw.torch)) / batch
    return (spread * 1000).long().clamp(max=999)


def tokenise(family: Family, dataset: Dataset) -> tuple[Tensor, list[list[int]]]:
    """Ids [N, 77] of all captions, and their subjects' positions."""
    prompts = [encode(family.tokenizer, sample["caption"]) for sample in dataset.samples]
    return torch.tensor([p.input_ids for p in prompts]), [p.positions for p in prompts]


class SceneModelStage(Stage):
    name = "tdm"
    steps = 5000
    batch = 16
    learning_rate = 8e-4
    null = 0.1  # share of captions replaced by the empty one, for guidance

    def __init__(self, family: Family, datasets: dict[str, Dataset], work_dir: Path) -> None:
        self.family = family
        self.unet = family.unet_tdm.requires_grad_(True)
        self.text_encoder = family.text_encoder.requires_grad_(True)
        train = datasets["scenes-train"]
        self.latents = encode_dataset(family, train, work_dir / "latents" / "scenes-train.npy")
        self.ids, _ = tokenise(family, train)
        self.null_ids = torch.tensor(encode(family.tokenizer, "").input_ids)
        self.forget_unused_words()
        self.validation = datasets["scenes-validation"]
        self.schedule = NoiseSchedule()

    @torch.no_grad()
    def forget_unused_words(self) -> None:
        """Zero embeddings for tokens that no caption uses: they say nothing instead of noise, and
        their 12 MiB of weights compress to nothing. Without gradients they stay zero."""
        used = torch.cat([self.ids.flatten(), self.null_ids]).unique()
        table = self.text_encoder.get_input_embeddings().weight
        kept = table[used].clone()
        table.zero_()
        table[used] = kept

    def networks(self) -> dict[str, nn.Module]:
        return {"unet_tdm": self.unet, "text_encoder": self.text_encoder}

    def loss(self, draw: Draw, batch: int) -> Tensor:
        index = np.sort(draw.numpy.integers(len(self.latents), size=batch))
        latents = torch.from_numpy(self.latents[index]).float()
        ids = self.ids[index]
        ids[torch.from_numpy(draw.numpy.random(batch) < self.null)] = self.null_ids
        noise = draw.randn(*latents.shape)
        timesteps = timesteps_of(draw, batch)
        states = self.text_encoder(ids).last_hidden_state
        predicted = self.unet(self.schedule.noisy(latents, noise, timesteps), timesteps, states).sample
        error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        return (error * self.schedule.weights[timesteps]).mean()

    def extra(self) -> dict:
        return {"scaling_factor": self.family.config["scaling_factor"]}

    def sample(self, path: Path) -> None:
        captions = [sample["caption"] for sample in self.validation.samples[:12]]
        requests = [Request(caption, [], seed) for seed, caption in enumerate(captions)]
        images = generate(self.family, requests, Method(self.sample_steps, 4.0)).images
        picture_grid(list(images), captions, columns=6).save(path)
