"""Stage sdm: the subject model (SDM), from the scene model's weights, on identity-rich data.

The recipe is FastComposer's (https://arxiv.org/abs/2305.10431): the subject fuser writes reference
images into the text states; some rows see the text alone; subjects count more than the scene; an
attention loss keeps half of the heads on their subject. The text encoder is the scene model's and
stays frozen, so that one serves both. The image encoder comes from the stage attributes, or is CLIP's, and
stays frozen too unless `train_image_encoder` says otherwise, as pictures without attribute labels may need.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolkit.errors import InputError
from toolkit.models import Family
from toolkit.train.attention import Localisation
from toolkit.train.draws import Draw
from toolkit.train.pixels import to_pixel_values
from toolkit.train.preview import Method, Request, generate, picture_grid
from toolkit.train.stage import Data
from toolkit.train.stages.noise import NoiseStage


class SubjectModelStage(NoiseStage):
    name = "sdm"
    builds_on = ("vae", "attributes", "tdm")
    steps = 10000
    batch = 20
    learning_rate = 8e-4
    recipe = "subjects"
    # Rows of each step: text only is the base row of subject enhancement, null keeps the model
    # usable with plain guidance.
    null, text_only = 0.05, 0.10
    localisation = 0.02  # weight of the attention loss
    restart_from_tdm = False
    train_image_encoder = False
    SETTINGS = (
        *NoiseStage.SETTINGS, "text_only", "localisation", "restart_from_tdm", "train_image_encoder",
    )  # fmt: skip

    def __init__(self, family: Family, data: Data, settings: dict | None = None) -> None:
        super().__init__(family, data, settings)
        if not any(prompt.positions for prompt in self.prompts):
            raise InputError("no caption marks a subject with <|image|>: the subject model has nothing to learn from")
        if self.restart_from_tdm:
            family.unet_sdm.load_state_dict(family.unet_tdm.state_dict())
        self.unet_sdm = family.unet_sdm.requires_grad_(True)
        self.subject_fuser = family.subject_fuser.requires_grad_(True)
        self.text_encoder = family.text_encoder
        self.image_encoder = family.image_encoder.requires_grad_(self.train_image_encoder)
        self.examples = self.new_examples(positions=self.positions_of, references=self.references_of)
        self.attention = Localisation(self.unet_sdm)

    def positions_of(self, index: int) -> Tensor:
        """[S] of the subjects' tokens, -1 = unused slot."""
        positions = self.prompts[index].positions
        return torch.tensor(positions + [-1] * (self.family.preset.max_subjects - len(positions)))

    def references_of(self, index: int) -> np.ndarray:
        """uint8 [S, R, R, 3], black in unused slots."""
        preset = self.family.preset
        slots = np.zeros((preset.max_subjects, preset.reference_size, preset.reference_size, 3), np.uint8)
        for subject in range(len(self.prompts[index].positions)):
            slots[subject] = self.data.train.reference(index, subject)
        return slots

    def conditions(self, batch: dict[str, Tensor], draw: Draw) -> tuple[Tensor, Tensor]:
        """Augmented text states [B, L, D], and the subject positions [B, S] that went into them."""
        ids, positions = batch["input_ids"], batch["positions"]
        rows = draw.uniform(len(ids), ids.device).unsqueeze(1)
        ids = torch.where(rows < self.null, self.null_ids.to(ids.device), ids)
        positions = torch.where(rows < self.null + self.text_only, -1, positions)
        used = positions >= 0
        with torch.no_grad():
            states = self.text_encoder(ids).last_hidden_state.float()
        embeds = states.new_zeros(*used.shape, states.shape[-1])
        if used.any():
            pixels = to_pixel_values(batch["references"][used], self.family)
            embeds[used] = self.image_encoder(pixels).image_embeds.float()
        return self.subject_fuser(states, embeds, positions), positions

    def forward(self, batch: dict[str, Tensor], draw: Draw) -> Tensor:
        latents = self.latents(batch)
        masks = self.masks(batch, latents)
        states, positions = self.conditions(batch, draw)
        self.attention.maps.clear()
        error = self.noise_loss(self.unet_sdm, latents, states, draw, masks)
        return error + self.localisation * self.attention.loss(masks, positions)

    def sample(self, path: Path) -> dict[str, float]:
        """Rows: reference, the subject model alone, the full method; people of the validation split."""
        people = self.data.validation
        chosen = [i for i, subjects in enumerate(people.subjects) if len(subjects) == 1][:10]
        if not chosen:
            return {}
        captions = [people.captions[i] for i in chosen]
        references = [people.reference(i, 0) for i in chosen]
        requests = [Request(c, [r], seed) for seed, (c, r) in enumerate(zip(captions, references, strict=True))]
        steps, device = self.sample_steps, self.device
        alone = generate(self.family, requests, Method(steps, 4.0, -1, -1), device=device).images
        full = generate(self.family, requests, Method(steps, 4.0, steps // 5, steps // 2), device=device).images
        size = full.shape[1:3]
        shown = [np.asarray(Image.fromarray(r).resize(size, Image.Resampling.NEAREST)) for r in references]
        picture_grid(shown + list(alone) + list(full), captions, columns=len(chosen)).save(path)
        return {}
