"""Stage captions: the text encoder learns what a sentence says before it must help to paint.

Linear heads on the text states tell what the sentence's picture shows: place, time, style, the colour of the clothes
and so on; they are thrown away afterwards. CLIP's text encoder learns the same from pictures. Through the noise loss
alone it learns what changes much of a picture, and no longer joins a colour to the thing that has it: after 15,000
steps, "red" instead of "green" changed the state of the word "wall" a twentieth as much as in the random encoder,
and the picture not at all.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from toolkit.models import Family
from toolkit.train.draws import Draw
from toolkit.train.labels import encode_labels, label_loss, shares_right
from toolkit.train.pictures import Examples
from toolkit.train.prompts import encode_prompts, meet_words
from toolkit.train.stage import Data, NoLabelsError, Stage


class CaptionsStage(Stage):
    name = "captions"
    steps = 800
    batch = 64
    optimizer = "muon"
    learning_rate = 2e-3
    ema_decay = 0.99

    def __init__(self, family: Family, data: Data, settings: dict | None = None) -> None:
        super().__init__(family, data, settings)
        self.classes = data.train.scene_classes()
        if not self.classes:
            raise NoLabelsError("the pictures have no labels of what they show (metadata.jsonl: scene)")
        prompts = encode_prompts(family, data.train.captions)
        self.text_encoder = family.text_encoder.requires_grad_(True)
        meet_words(family, prompts)
        width = family.text_encoder.config.hidden_size
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(names)) for name, names in self.classes.items()})
        labels = encode_labels(data.train.scenes, self.classes)
        ids = torch.tensor([prompt.input_ids for prompt in prompts])
        self.examples = Examples(len(ids), input_ids=ids.__getitem__, labels=labels.__getitem__)

    def logits(self, ids: Tensor, positions: Tensor) -> list[Tensor]:
        """Of every kind of label: [B, P, classes] at the positions [B, P]."""
        states = self.text_encoder(ids).last_hidden_state.float()
        states = states.gather(1, positions.unsqueeze(2).expand(-1, -1, states.shape[2]))
        return [head(states) for head in self.heads.values()]

    def forward(self, batch: dict[str, Tensor], draw: Draw) -> Tensor:
        """Mean cross entropy at the first end of text, CLIP's place for what a sentence says, and at a random one of
        those that pad the prompt: the UNets look at all of them."""
        ids = batch["input_ids"]
        first = end_of_text(ids)
        random = first + (draw.uniform(len(ids), ids.device) * (ids.shape[1] - first)).long()
        logits = self.logits(ids, torch.stack([first, random], 1))
        return label_loss([one.flatten(0, 1) for one in logits], batch["labels"].repeat_interleave(2, 0))

    def sample(self, path: Path) -> dict[str, float]:
        """Share of right answers on sentences of the validation split. Sentences do not say all that their pictures
        show, so that less than 1 is the most."""
        pictures = self.data.validation
        count = min(512, len(pictures.captions))
        prompts = encode_prompts(self.family, pictures.captions[:count])
        ids = torch.tensor([prompt.input_ids for prompt in prompts]).to(self.device)
        answers = []
        for part in ids.split(64):
            answers.append(torch.cat([x.argmax(2) for x in self.logits(part, end_of_text(part).unsqueeze(1))], 1).cpu())
        labels = encode_labels(pictures.scenes[:count], self.classes)
        shares = shares_right(torch.cat(answers), labels, self.classes)
        draw_shares(shares, path)
        return shares


def end_of_text(ids: Tensor) -> Tensor:
    """[B] of the first end of text in [B, L], which has the largest id in CLIP's vocabulary."""
    return ids.argmax(dim=1)


def draw_shares(shares: dict[str, float], path: Path) -> None:
    """A bar a kind of label, up to 1."""
    figure = Figure(figsize=(6, 4), layout="tight")
    axes = figure.subplots()
    bars = axes.barh(list(shares), list(shares.values()))
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1), xlabel="told right from the sentence (held out)")
    figure.savefig(path, dpi=80)
