"""What is drawn to calibrate: the validation pairs of the generated world, or a file of the operator's own prompts."""

import json
from pathlib import Path

from toolkit.errors import InputError
from toolkit.evaluate.metrics import without_markers
from toolkit.evaluate.pairs import pair_set
from toolkit.reference.image import object_pixels
from toolkit.reference.pipeline import Pipeline, Request
from toolkit.reference.prompt import PromptError, encode, place_markers
from toolkit.report.pictures import png

BUILT_IN = "built-in"
# `evaluate --list-pairs` writes name, seed and group too; they play no part here.
_FIELDS = {"prompt", "references", "negative_prompt", "name", "seed", "group"}


# Every fifth prompt is kept apart with its subjects: what quantization costs is measured on others than it
# was calibrated with.
_CHECK_EVERY = 5


def load(source: str) -> list[Request]:
    """source: a file, or BUILT_IN. Raises InputError."""
    return built_in() if source == BUILT_IN else read(Path(source))


def split(requests: list[Request]) -> tuple[list[Request], list[Request]]:
    """(for the quantizer, for the check). Raises InputError if one of them would be empty."""
    kept = requests[_CHECK_EVERY - 1 :: _CHECK_EVERY] or requests[-1:]
    others = [request for request in requests if request not in kept]
    if not others:
        raise InputError(f"{len(requests)} prompts are too few; expected two different ones or more")
    return others, kept


def built_in() -> list[Request]:
    """The validation pairs, on which defaults were chosen too: what is held out stays unseen."""
    return [Request(pair.prompt, [png(r) for r in pair.references]) for pair in pair_set("validation")]


def read(path: Path) -> list[Request]:
    """A JSON object a line: `prompt`, `references` (image files, relative to the file; may be missing or empty)
    and `negative_prompt`. Raises InputError that names the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts {path} cannot be read: {error}") from error
    return [_request(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _request(path: Path, number: int, line: str) -> Request:
    where = f"{path} line {number}"
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is no JSON ({error}); expected one object a line") from error
    if not isinstance(entry, dict) or not isinstance(prompt := entry.get("prompt"), str) or not prompt.strip():
        raise InputError(f'{where} has no prompt; expected {{"prompt": "...", "references": ["face.jpg"]}}')
    if unknown := sorted(set(entry) - _FIELDS):
        raise InputError(f"{where} has {', '.join(unknown)}; expected prompt, references, negative_prompt")
    names = entry.get("references", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: references is no list of file names")
    subjects = [_image(path.parent / name, where) for name in names]
    return Request(prompt, subjects, str(entry.get("negative_prompt", "")))


def _image(path: Path, where: str) -> bytes:
    try:
        content = path.read_bytes()
        object_pixels(content, 8)
    except OSError as error:  # Pillow's too
        raise InputError(f"{where}: {path} is no image that can be read: {error}") from error
    return content


def check(pipeline: Pipeline, requests: list[Request]) -> None:
    """Before anything is drawn: every prompt names as many subjects as it has references. Raises InputError."""
    most = pipeline.networks.max_subjects
    for request in requests:
        if len(request.subjects) > most:
            raise InputError(f"{request.prompt!r} has {len(request.subjects)} references, the family takes {most}")
        try:
            marked = place_markers(request.prompt, len(request.subjects), pipeline.family["person_nouns"])
            encode(pipeline.tokenizer, marked)
        except PromptError as error:
            raise InputError(f"{request.prompt!r}: {error}") from error


def text_only(request: Request) -> Request:
    """The same sentence with nobody in it, as requests without references are."""
    return Request(without_markers(request.prompt), [], request.negative_prompt)
