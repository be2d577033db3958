"""Stage attributes: the image encoder learns what makes an identity before it must help to paint.

Linear heads on the image embedding tell hair, colours, skin, glasses and so on; they are thrown
away afterwards. Without this the encoder would have to find out through the noise loss.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.models import Family
from toolkit.train.draws import Draw
from toolkit.train.pictures import Examples, Pictures
from toolkit.train.pixels import to_pixel_values
from toolkit.train.stage import Data, NoLabelsError, Stage

_UNKNOWN = -1  # of an attribute that cannot be seen


class AttributesStage(Stage):
    name = "attributes"
    steps = 800
    batch = 64
    optimizer = "muon"
    learning_rate = 2e-3
    recipe = "subjects"

    def __init__(self, family: Family, data: Data, settings: dict | None = None) -> None:
        super().__init__(family, data, settings)
        self.classes = data.train.attribute_classes()
        if not self.classes:
            raise NoLabelsError("the pictures' subjects have no attribute labels (metadata.jsonl: subjects)")
        self.image_encoder = family.image_encoder.requires_grad_(True)
        width = family.image_encoder.config.projection_dim
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(names)) for name, names in self.classes.items()})
        owners, classes = self.labelled(data.train)
        self.examples = Examples(
            len(owners), references=lambda k: data.train.reference(*owners[k]), classes=classes.__getitem__
        )

    def labelled(self, pictures: Pictures) -> tuple[list[tuple[int, int]], Tensor]:
        """(picture, subject) of every subject, and its classes [M, attributes]."""
        subjects = [((i, k), s) for i, found in enumerate(pictures.subjects) for k, s in enumerate(found)]
        rows = [[self.class_of(name, s.get(name)) for name in self.classes] for _, s in subjects]
        return [owner for owner, _ in subjects], torch.tensor(rows)

    def class_of(self, name: str, value: str | None) -> int:
        """A class that no training picture has cannot be told, as little as one that is not known."""
        return self.classes[name].index(value) if value in self.classes[name] else _UNKNOWN

    def logits(self, references: Tensor) -> list[Tensor]:
        embeds = self.image_encoder(to_pixel_values(references, self.family)).image_embeds
        embeds = F.layer_norm(embeds.float(), embeds.shape[-1:])
        return [head(embeds).float() for head in self.heads.values()]

    def forward(self, batch: dict[str, Tensor], draw: Draw) -> Tensor:
        """Mean over attributes of the cross entropy; what is unknown does not count."""
        references = batch["references"]
        if draw.numpy.random() < 0.5:
            references = references.flip(2)
        losses = []
        for logits, classes in zip(self.logits(references), batch["classes"].T, strict=True):
            total = F.cross_entropy(logits, classes, ignore_index=_UNKNOWN, reduction="sum")
            losses.append(total / (classes != _UNKNOWN).sum().clamp(min=1))
        return sum(losses) / len(losses)

    def sample(self, path: Path) -> dict[str, float]:
        """Share of right answers on identities of the validation split; the picture shows the first faces."""
        owners, classes = self.labelled(self.data.validation)
        if not owners:
            return {}
        owners, classes = owners[:512], classes[:512]
        references = np.stack([self.data.validation.reference(*owner) for owner in owners])
        Image.fromarray(np.concatenate(list(references[:12]), axis=1)).save(path)
        answers = []
        for part in torch.from_numpy(references).split(64):
            answers.append(torch.stack([x.argmax(1) for x in self.logits(part.to(self.device))], dim=1).cpu())
        right, known = torch.cat(answers) == classes, classes != _UNKNOWN
        return {name: round(float(right[known[:, k], k].float().mean()), 3) for k, name in enumerate(self.classes)}
