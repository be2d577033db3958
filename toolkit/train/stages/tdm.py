"""Stage tdm: the scene model (TDM) and its text encoder, together, on scene-rich data."""

from pathlib import Path

import torch
from torch import Tensor

from toolkit.models import Family
from toolkit.train.draws import Draw
from toolkit.train.preview import Method, Request, generate, picture_grid
from toolkit.train.stage import Data
from toolkit.train.stages.noise import NoiseStage


class SceneModelStage(NoiseStage):
    name = "tdm"
    steps = 10000
    batch = 16
    learning_rate = 8e-4
    null = 0.1
    freeze_text_encoder = False
    SETTINGS = (*NoiseStage.SETTINGS, "freeze_text_encoder")

    def __init__(self, family: Family, data: Data, settings: dict | None = None) -> None:
        super().__init__(family, data, settings)
        self.unet_tdm = family.unet_tdm.requires_grad_(True)
        self.text_encoder = family.text_encoder
        self.examples = self.new_examples()
        if not self.freeze_text_encoder:
            self.text_encoder.requires_grad_(True)
            self.meet_words()

    @torch.no_grad()
    def meet_words(self) -> None:
        """Embeddings before the first step, where the text encoder is to learn them.

        Of a new text encoder, those of words that no caption uses become zero: they say nothing
        instead of noise, and most of the table compresses to nothing. Without gradients they stay
        zero. Later, from other captions, zero rows that are used for the first time become random,
        as small as CLIP begins.
        """
        ids = torch.tensor([prompt.input_ids for prompt in self.prompts])
        table = self.text_encoder.get_input_embeddings().weight
        used = torch.zeros(len(table), dtype=torch.bool)
        used[ids.flatten()] = used[self.null_ids] = True
        if self.family.config.get("from") is None:
            table[~used] = 0
        new = used & (table == 0).all(dim=1)
        source = torch.Generator().manual_seed(0)
        scale = 0.02 * self.text_encoder.config.initializer_factor
        table[new] = scale * torch.randn(int(new.sum()), table.shape[1], generator=source)

    def forward(self, batch: dict[str, Tensor], draw: Draw) -> Tensor:
        ids = batch["input_ids"]
        null = draw.uniform(len(ids), ids.device) < self.null
        ids = torch.where(null.unsqueeze(1), self.null_ids.to(ids.device), ids)
        states = self.text_encoder(ids).last_hidden_state
        latents = self.latents(batch)
        return self.noise_loss(self.unet_tdm, latents, states, draw, self.masks(batch, latents))

    def sample(self, path: Path) -> dict[str, float]:
        captions = self.data.validation.captions[:12]
        requests = [Request(caption, [], seed) for seed, caption in enumerate(captions)]
        images = generate(self.family, requests, Method(self.sample_steps, 4.0), device=self.device).images
        picture_grid(list(images), captions, columns=6).save(path)
        return {}
