"""Stage sdm: the subject model (SDM), from the scene model's weights, on identity-rich data.

The text encoder is the scene model's and stays frozen, so that one serves both; the image encoder
is that of the attributes stage.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.data.store import Dataset
from toolkit.models import Family
from toolkit.reference.prompt import encode
from toolkit.train.attention import Localisation
from toolkit.train.latents import encode_dataset
from toolkit.train.loop import Draw, Stage
from toolkit.train.preview import Method, Request, generate, picture_grid
from toolkit.train.stages.attributes import to_pixel_values
from toolkit.train.stages.tdm import NoiseSchedule, timesteps_of, tokenise


class SubjectModelStage(Stage):
    name = "sdm"
    steps = 6000
    batch = 20
    learning_rate = 8e-4
    # Rows of each step: text only is the base row of subject enhancement, null keeps the model
    # usable with plain guidance.
    null, text_only = 0.05, 0.10
    localisation = 0.02  # weight of the attention loss

    def __init__(self, family: Family, datasets: dict[str, Dataset], work_dir: Path) -> None:
        self.family = family
        self.unet = family.unet_sdm.requires_grad_(True)
        self.fuser = family.subject_fuser.requires_grad_(True)
        self.train = datasets["subjects-train"]
        self.latents = encode_dataset(family, self.train, work_dir / "latents" / "subjects-train.npy")
        self.ids, self.positions = tokenise(family, self.train)
        self.null_ids = torch.tensor(encode(family.tokenizer, "").input_ids)
        self.validation = datasets["subjects-validation"]
        self.schedule = NoiseSchedule()
        self.attention = Localisation(self.unet)

    def networks(self) -> dict[str, nn.Module]:
        return {"unet_sdm": self.unet, "subject_fuser": self.fuser}

    def conditions(self, index: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Augmented text states [B, L, D] and subject positions [B, S]; `rows` in [0, 1) says which
        are null or text only."""
        slots = self.family.preset.max_subjects
        ids = self.ids[index]
        positions = torch.full((len(index), slots), -1)
        owners, references = [], []
        for b, i in enumerate(index):
            if rows[b] < self.null:
                ids[b] = self.null_ids
            elif rows[b] >= self.null + self.text_only:
                first = self.train.samples[i]["first_reference"]
                for k, position in enumerate(self.positions[i]):
                    positions[b, k] = position
                    owners.append(b * slots + k)
                    references.append(self.train.references[first + k])
        with torch.no_grad():
            states = self.family.text_encoder(ids).last_hidden_state.float()
            embeds = torch.zeros(len(index) * slots, states.shape[-1])
            if references:
                pixels = to_pixel_values(np.stack(references), self.family)
                embeds[owners] = self.family.image_encoder(pixels).image_embeds.float()
        return self.fuser(states, embeds.view(len(index), slots, -1), positions), positions

    def loss(self, draw: Draw, batch: int) -> Tensor:
        index = np.sort(draw.numpy.integers(len(self.latents), size=batch))
        latents = torch.from_numpy(self.latents[index]).float()
        labels = torch.from_numpy(self.train.labels[index])
        subjects = torch.arange(1, self.family.preset.max_subjects + 1, dtype=labels.dtype).view(1, -1, 1, 1)
        masks = F.interpolate((labels.unsqueeze(1) == subjects).float(), size=latents.shape[-2:], mode="area")
        weight = 1 + 2 * masks.sum(dim=1, keepdim=True)
        noise = draw.randn(*latents.shape)
        timesteps = timesteps_of(draw, batch)
        states, positions = self.conditions(index, draw.numpy.random(batch))
        self.attention.maps.clear()
        predicted = self.unet(self.schedule.noisy(latents, noise, timesteps), timesteps, states).sample
        error = ((predicted.float() - noise).square() * weight).mean(dim=(1, 2, 3)) / weight.mean()
        error = (error * self.schedule.weights[timesteps]).mean()
        return error + self.localisation * self.attention.loss(masks, positions)

    def extra(self) -> dict:
        return {"scaling_factor": self.family.config["scaling_factor"]}

    def sample(self, path: Path) -> None:
        """Rows: reference, the subject model alone, the full method; unseen people."""
        chosen = [s for s in self.validation.samples if len(s["subjects"]) == 1][:10]
        captions = [s["caption"] for s in chosen]
        references = [self.validation.references[s["first_reference"]] for s in chosen]
        requests = [Request(c, [r], seed) for seed, (c, r) in enumerate(zip(captions, references, strict=True))]
        steps = self.sample_steps
        alone = generate(self.family, requests, Method(steps, 4.0, start_merge_step=-1, final_step=-1)).images
        full = generate(self.family, requests, Method(steps, 4.0, start_merge_step=steps // 5, final_step=steps // 2)).images
        shown = [r.repeat(2, axis=0).repeat(2, axis=1) for r in references]
        picture_grid(shown + list(alone) + list(full), captions, columns=10).save(path)
