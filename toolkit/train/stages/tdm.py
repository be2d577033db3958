"""Stage tdm: the scene model (TDM), on scene-rich data.

The text encoder comes from the stage captions, or is CLIP's, and stays frozen unless `train_text_encoder` says
otherwise, as captions with new words or of another kind may need.
"""

from pathlib import Path

import torch
from torch import Tensor

from toolkit.models import Family
from toolkit.train.draws import Draw
from toolkit.train.preview import Method, Request, generate, picture_grid
from toolkit.train.prompts import meet_words
from toolkit.train.stage import Data
from toolkit.train.stages.noise import NoiseStage


class SceneModelStage(NoiseStage):
    name = "tdm"
    steps = 20000
    batch = 16
    learning_rate = 8e-4
    builds_on = ("vae", "captions")
    null = 0.1
    train_text_encoder = False
    SETTINGS = (*NoiseStage.SETTINGS, "train_text_encoder")

    def __init__(self, family: Family, data: Data, settings: dict | None = None) -> None:
        super().__init__(family, data, settings)
        self.unet_tdm = family.unet_tdm.requires_grad_(True)
        self.text_encoder = family.text_encoder.requires_grad_(self.train_text_encoder)
        self.examples = self.new_examples()
        if self.train_text_encoder:
            meet_words(family, self.prompts)

    def forward(self, batch: dict[str, Tensor], draw: Draw) -> Tensor:
        ids = batch["input_ids"]
        null = draw.uniform(len(ids), ids.device) < self.null
        ids = torch.where(null.unsqueeze(1), self.null_ids.to(ids.device), ids)
        with torch.set_grad_enabled(self.train_text_encoder and torch.is_grad_enabled()):
            states = self.text_encoder(ids).last_hidden_state
        latents = self.latents(batch)
        return self.noise_loss(self.unet_tdm, latents, states, draw, self.masks(batch, latents))

    def sample(self, path: Path) -> dict[str, float]:
        captions = self.data.validation.captions[:12]
        requests = [Request(caption, [], seed) for seed, caption in enumerate(captions)]
        images = generate(self.family, requests, Method(self.sample_steps, 4.0), device=self.device).images
        picture_grid(list(images), captions, columns=6).save(path)
        return {}
