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
from toolkit.train.labels import encode_labels, label_loss, shares_right
from toolkit.train.pictures import Examples, Pictures
from toolkit.train.pixels import to_pixel_values
from toolkit.train.stage import Data, NoLabelsError, Stage


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
        return [owner for owner, _ in subjects], encode_labels((s for _, s in subjects), self.classes)

    def logits(self, references: Tensor) -> list[Tensor]:
        embeds = self.image_encoder(to_pixel_values(references, self.family)).image_embeds
        embeds = F.layer_norm(embeds.float(), embeds.shape[-1:])
        return [head(embeds).float() for head in self.heads.values()]

    def forward(self, batch: dict[str, Tensor], draw: Draw) -> Tensor:
        references = batch["references"]
        if draw.numpy.random() < 0.5:
            references = references.flip(2)
        return label_loss(self.logits(references), batch["classes"])

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
        return shares_right(torch.cat(answers), classes, self.classes)
