"""CLIP's tokenizer with the subject marker.

The vocabulary is CLIP's own, written from the merge list inside the `open_clip_torch` package
(MIT): 256 bytes, the same with `</w>`, 48894 merges, start and end of text = 49408 entries.
`<|image|>` is an added token behind them; it is dropped before the text encoder sees ids.
"""

import gzip
import json
from importlib import resources
from pathlib import Path

from transformers import CLIPTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

MARKER = "<|image|>"
START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 49408
_MERGES = VOCABULARY - 2 * 256 - 2


def write_tokenizer(folder: Path) -> CLIPTokenizerFast:
    """Writes vocab.json, merges.txt and the tokenizer's configuration into `folder`."""
    packed = resources.files("open_clip").joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    merges = lines[1 : 1 + _MERGES]  # the first line is a comment
    characters = list(bytes_to_unicode().values())
    entries = characters + [c + "</w>" for c in characters] + ["".join(m.split()) for m in merges]
    entries += [START_OF_TEXT, END_OF_TEXT]
    if len(entries) != VOCABULARY:
        raise ValueError(f"the merge list gives {len(entries)} entries instead of {VOCABULARY}")
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {entry: index for index, entry in enumerate(entries)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizerFast.from_pretrained(folder, **_SPECIAL, model_max_length=77)
    tokenizer.add_special_tokens({"additional_special_tokens": [MARKER]})
    tokenizer.save_pretrained(folder)
    return tokenizer


_SPECIAL = {
    "bos_token": START_OF_TEXT,
    "eos_token": END_OF_TEXT,
    "unk_token": END_OF_TEXT,
    "pad_token": END_OF_TEXT,
}
