"""Stage attributes: the image encoder learns what makes an identity before it must help to paint.

Linear heads on the image embedding tell hair style, colours, skin, glasses and beard; they are
thrown away afterwards. Without this the encoder would have to find out through the noise loss.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.data import people
from toolkit.data.store import Dataset
from toolkit.models import Family
from toolkit.train.loop import Draw, Stage

CLASSES = {
    "hair_colour": tuple(people.HAIR_COLOURS),
    "skin": tuple(people.SKIN_TONES),
    "glasses": tuple(people.GLASSES),
    "hair": tuple(h.name.lower() for h in people.LONG_HAIR + people.SHORT_HAIR),
    "beard": ("none", *(b.name.lower() for b in people.BEARDS)),
}


def class_indices(dataset: Dataset) -> np.ndarray:
    """[M, attributes] of all references of a data set, in order."""
    subjects = [subject for sample in dataset.samples for subject in sample["subjects"]]
    return np.array([[names.index(s[key]) for key, names in CLASSES.items()] for s in subjects])


def to_pixel_values(references: np.ndarray, family: Family) -> Tensor:
    """uint8 [B, 64, 64, 3] to the encoder's normalised [B, 3, 64, 64]."""
    values = torch.from_numpy(np.ascontiguousarray(references)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(family.config[k]).view(3, 1, 1) for k in ("image_mean", "image_std"))
    return (values - mean) / std


class AttributesStage(Stage):
    name = "attributes"
    steps = 2500
    batch = 64
    learning_rate = 6e-4

    def __init__(self, family: Family, datasets: dict[str, Dataset], work_dir: Path) -> None:
        self.family = family
        self.encoder = family.image_encoder.requires_grad_(True)
        width = family.preset.width
        self.heads = nn.ModuleDict({key: nn.Linear(width, len(names)) for key, names in CLASSES.items()})
        self.train, self.validation = datasets["subjects-train"], datasets["subjects-validation"]
        self.train_classes = torch.from_numpy(class_indices(self.train))
        self.validation_classes = torch.from_numpy(class_indices(self.validation))

    def networks(self) -> dict[str, nn.Module]:
        return {"image_encoder": self.encoder, "heads": self.heads}

    def logits(self, references: np.ndarray) -> list[Tensor]:
        embeds = self.encoder(to_pixel_values(references, self.family)).image_embeds
        embeds = F.layer_norm(embeds.float(), embeds.shape[-1:])
        return [head(embeds) for head in self.heads.values()]

    def loss(self, draw: Draw, batch: int) -> Tensor:
        index = np.sort(draw.numpy.integers(len(self.train_classes), size=batch))
        references = self.train.references[index]
        if draw.numpy.random() < 0.5:
            references = references[:, :, ::-1]
        classes = self.train_classes[index]
        logits = self.logits(references)
        return sum(F.cross_entropy(part.float(), classes[:, k]) for k, part in enumerate(logits)) / len(logits)

    def sample(self, path: Path) -> None:
        """Prints the share of right answers on unseen identities; the picture shows the faces."""
        count = min(512, len(self.validation_classes))
        logits = self.logits(self.validation.references[:count])
        right = [
            float((part.argmax(dim=1) == self.validation_classes[:count, k]).float().mean())
            for k, part in enumerate(logits)
        ]
        print("\nattributes:", {key: round(r, 3) for key, r in zip(CLASSES, right, strict=True)}, flush=True)
        Image.fromarray(np.concatenate(list(self.validation.references[:12]), axis=1)).save(path)
