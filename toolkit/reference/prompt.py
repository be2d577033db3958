"""Prompt to token ids and subject positions.

`<|image|>` follows the noun of a subject. One token stream: tokenise with the marker as a special
token, drop it, cut to 76 + end-of-text, pad to 77; the token before the marker is its subject's
token, and the same ids serve text and augmented conditioning.

The code released with the paper (as FastComposer's) tokenises twice, with markers and without,
and gives other positions where the two streams differ: a marker inside a word, doubled, without a
word before it or beyond the cut. Those prompts are errors here.
"""

import itertools
import re
import unicodedata
from dataclasses import dataclass

from transformers import CLIPTokenizerFast

MARKER = "<|image|>"
START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"
LENGTH = 77


class PromptError(ValueError):
    """A prompt that names no clear subject. `reason`: no_word, follows_marker, inside_word,
    beyond_cut (of a marker's place), count (markers and images differ), placement (images
    without markers, and no rule that places them)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Prompt:
    """input_ids: 77 (or the length asked for), padded with end-of-text. positions: index in input_ids of
    each subject's token, in order. cut_ids: what did not fit. text: the prompt without markers."""

    input_ids: list[int]
    positions: list[int]
    cut_ids: list[int]
    text: str


def encode(tokenizer: CLIPTokenizerFast, prompt: str, length: int = LENGTH) -> Prompt:
    """length: the text encoder's, in tokens. Raises PromptError (no_word, follows_marker, inside_word,
    beyond_cut) for the first marker that is misplaced."""
    pieces = prompt.split(MARKER)
    for before, after, first in zip(pieces, pieces[1:], [True] + [False] * len(pieces), strict=False):
        _check_place(before, after, first)
    marker = tokenizer.convert_tokens_to_ids(MARKER)
    words, positions = [], []
    for token in tokenizer(prompt, add_special_tokens=False)["input_ids"]:
        if token == marker:
            positions.append(len(words))  # of the word before it, behind start-of-text
        else:
            words.append(token)
    if positions and positions[-1] > length - 2:
        raise PromptError("beyond_cut", f"the marker stands beyond the {length} tokens of a prompt")
    start, end = tokenizer.convert_tokens_to_ids([START_OF_TEXT, END_OF_TEXT])
    ids = [start, *words[: length - 2]]
    ids += [end] * (length - len(ids))
    text = re.sub(r"\s+", " ", " ".join(pieces)).strip() if positions else prompt
    return Prompt(ids, positions, words[length - 2 :], text)


def _check_place(before: str, after: str, first: bool) -> None:
    """`before`, `after`: the text between this marker and its neighbours."""
    word = before.rstrip(_SPACES)
    if not word and not first:
        raise PromptError("follows_marker", "the marker follows another marker directly")
    ends_in_token = word.endswith((START_OF_TEXT, END_OF_TEXT))
    if not word or ends_in_token or unicodedata.category(word[-1]).startswith("P"):
        raise PromptError("no_word", "the marker has no word before it")
    if after and _in_word(before[-1]) and _in_word(after[0]):
        raise PromptError("inside_word", "the marker stands inside a word")


# Unicode White_Space, which is what the tokenizer drops (str.isspace also has U+001C to U+001F).
_SPACES = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and c not in "\x1c\x1d\x1e\x1f")


def _in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


def place_markers(prompt: str, images: int, person_nouns: list[str]) -> str:
    """The prompt with one marker a reference image, where the user may leave markers out.

    1. The word `img` right after a person noun is a marker (FastComposer's prompts).
    2. With markers in it the prompt stays, and the counts must agree.
    3. With as many person nouns as images, markers are placed after them.
    A word is a run of letters, marks, digits, `_` and `-`; nouns match in any case, `img` in its own.
    These are the clear cases alone; the gateway (internal/placement) serves the other sentences too, with a warning.
    Raises PromptError (count, placement).
    """
    nouns = {noun.lower() for noun in person_nouns}
    if images:
        prompt = _replace_stand_ins(prompt, nouns)
    markers = prompt.count(MARKER)
    if markers or not images:
        if markers != images:
            raise PromptError("count", f"the prompt has {markers} markers {MARKER} for {images} reference images")
        return prompt
    found = [m for m in _WORD.finditer(prompt) if m.group().lower() in nouns]
    if len(found) != images:
        raise PromptError("placement", f"put {MARKER} after the noun of each of the {images} subjects")
    for noun in reversed(found):
        prompt = prompt[: noun.end()] + f" {MARKER}" + prompt[noun.end() :]
    return prompt


def _replace_stand_ins(prompt: str, nouns: set[str]) -> str:
    words = list(_WORD.finditer(prompt))
    for noun, word in reversed(list(itertools.pairwise(words))):
        if word.group() == "img" and noun.group().lower() in nouns and prompt[noun.end() : word.start()].isspace():
            prompt = prompt[: word.start()] + MARKER + prompt[word.end() :]
    return prompt


_WORD = re.compile(r"[\w\u0300-\u036f-]+")
