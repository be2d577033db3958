"""The sentences of a data set as the text encoder reads them."""

import torch

from toolkit.errors import InputError
from toolkit.models import Family
from toolkit.reference.prompt import Prompt, PromptError, encode


def encode_prompts(family: Family, captions: list[str]) -> list[Prompt]:
    """Raises InputError for a caption whose marker follows no word."""
    return [_encode(family, caption) for caption in captions]


def _encode(family: Family, caption: str) -> Prompt:
    try:
        return encode(family.tokenizer, caption, family.preset.max_length)
    except PromptError as error:
        raise InputError(f"{error}: {caption!r}") from error


@torch.no_grad()
def meet_words(family: Family, prompts: list[Prompt]) -> None:
    """Embeddings before the first step of a stage that trains the text encoder.

    Of a new text encoder, those of words that no caption uses become zero: they say nothing instead of noise, and most
    of the table compresses to nothing. Without gradients they stay zero. Later, from other captions, zero rows that are
    used for the first time become random, as small as CLIP begins.
    """
    table = family.text_encoder.get_input_embeddings().weight
    used = torch.zeros(len(table), dtype=torch.bool)
    used[torch.tensor([prompt.input_ids for prompt in prompts]).flatten()] = True
    used[_encode(family, "").input_ids] = True
    if family.config.get("from") is None:
        table[~used] = 0
    new = used & (table == 0).all(dim=1)
    source = torch.Generator().manual_seed(0)
    scale = 0.02 * family.text_encoder.config.initializer_factor
    table[new] = scale * torch.randn(int(new.sum()), table.shape[1], generator=source)
