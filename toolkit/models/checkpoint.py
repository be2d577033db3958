"""Weight files as libraries write them: safetensors or PyTorch's, whole or in shards.

They are opened, not read: every tensor is a private mapping of its file, whose pages the system fetches when they are
needed and drops when it needs memory. Opening a PyTorch file runs nothing that is in it (`weights_only`), and tells a
damaged one by the checksums that its zip archive has of every tensor. Safetensors files have none: there a cut is told,
and by `toolkit.models.layout` a weight that is no number.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from toolkit.errors import InputError

# What diffusers, transformers and accelerate call the weights in a folder, in the order in which they are looked for.
# The fp16 variant is what many downloads of Stable Diffusion are cut down to.
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
ENDINGS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".fp16.safetensors", ".fp16.bin")


@dataclass(frozen=True)
class Weight:
    """tensor: of any floating type. name: in its file, for messages; keys of Weights may be shorter."""

    tensor: Tensor
    name: str
    file: Path


Weights = dict[str, Weight]


def open_weights(place: Path) -> Weights:
    """The tensors of a file, of an index (`*.index.json`) and its shards, or of the one of these in a folder.

    Raises InputError if there is none, a file is damaged, cut or no weight file, or it would run code.
    """
    path = weight_file(place)
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    tensors = _open_safetensors(path) if path.suffix == ".safetensors" else _open_torch(path)
    return {name: Weight(tensor, name, path) for name, tensor in tensors.items()}


def weight_file(place: Path) -> Path:
    place = Path(place)
    if place.is_file():
        return place
    if not place.is_dir():
        raise InputError(f"{place} does not exist")
    found = next((p for ending in ENDINGS for stem in STEMS if (p := place / f"{stem}{ending}").is_file()), None)
    if not found:
        there = ", ".join(sorted(p.name for p in place.iterdir())[:9]) or "nothing"
        raise InputError(
            f"{place} holds no weights: expected {' or '.join(STEMS)} with {', '.join(ENDINGS)}, found {there}"
        )
    return found


def _open_shards(index: Path) -> Weights:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(places.values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{index} is no index of shards, an object `weight_map` of tensor to file: {error}") from error
    weights: Weights = {}
    for shard in shards:
        if Path(shard).name != shard or not (index.parent / shard).is_file():
            raise InputError(f"{index} names the shard {shard}, which is not there: all shards lie beside their index")
        weights |= open_weights(index.parent / shard)
    if lost := [f"{name} ({place})" for name, place in places.items() if name not in weights]:
        raise InputError(f"{index}: the shards lack {some(lost)}")
    return weights


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        cut = _first_cut(path)
        fault = f"is cut: {cut} lies behind its end at {path.stat().st_size:,} bytes" if cut else f"is damaged: {error}"
        raise InputError(f"{path} {fault}. Copy or download it again") from error


def _first_cut(path: Path) -> str | None:
    """The first tensor that does not lie wholly in the file; None if the header does not tell.

    A file is the header's length (8 bytes, little endian), the header (JSON), and the tensors at `data_offsets`.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        room = path.stat().st_size - 8 - length
        try:
            header = json.loads(file.read(length)) if room > 0 else {}
            ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
            return min((name for name, end in ends.items() if end > room), key=ends.get, default=None)
        except (ValueError, LookupError, TypeError, AttributeError):  # the header is damaged itself
            return None


def _open_torch(path: Path) -> dict[str, Tensor]:
    state = load_torch(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        held = type(state).__name__
        if isinstance(state, dict):
            held = some([f"{k} ({type(v).__name__})" for k, v in state.items() if not isinstance(v, Tensor)])
        raise InputError(f"{path} holds {held}: expected a state dict, tensors by name")
    return state


def load_torch(path: Path) -> object:
    """What torch.save wrote, if it is whole and nothing but tensors and plain containers. Raises InputError."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise InputError(f"{path} is no file of torch.save (PyTorch 1.6 or later)")
    try:
        whole = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        whole = False
    if not whole:
        raise InputError(
            f"{path} is cut or damaged: the table of its tensors, which lies at its end, cannot be read. Copy or "
            "download it again"
        )
    damaged = _damaged_record(path)
    state, unsafe = None, []
    if not damaged or "/data/" in damaged:  # what says which tensors there are is whole
        try:
            unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
            if not unsafe:
                state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # whatever unpickling makes of a strange file
            reason = str(error).splitlines()[0]
            raise InputError(f"{path} is no file of tensors and plain containers: {reason}") from error
    if unsafe:
        raise InputError(
            f"{path} needs {', '.join(unsafe)} to be loaded, which can run any code: only tensors and plain "
            "containers are loaded. Ask whoever made it for a state dict, best as safetensors"
        )
    if damaged:
        where = _tensor_of(damaged, state)
        raise InputError(f"{path} is damaged: {where} does not have its checksum. Copy or download it again")
    return state


def _damaged_record(path: Path) -> str | None:
    """The first record that does not have its checksum; whatever zipfile raises, a record cannot be read because the
    archive is damaged."""
    record = "the archive's table"
    try:
        with zipfile.ZipFile(path) as archive, progress(f"checksums of {path}", path.stat().st_size) as bar:
            for info in archive.infolist():
                record = info.filename
                with archive.open(info) as file:
                    while chunk := file.read(2**24):
                        bar.update(len(chunk))
    except Exception:
        return record
    return None


def _tensor_of(record: str, state: object) -> str:
    """The tensor of a state dict in its file's record `…/data/<n>`; torch.save counts in the order of the tensors."""
    storages: dict[int, str] = {}
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, Tensor):
            storages.setdefault(value.untyped_storage().data_ptr(), name)
    return dict(enumerate(storages.values())).get(int(record.rsplit("/", 1)[1]), record) if storages else record


def progress(title: str, size: int) -> tqdm:
    """A bar of `size` bytes for what takes longer than a second."""
    return tqdm(total=size, desc=title, unit="B", unit_scale=True, delay=1, mininterval=1)


def some(names: list[str], most: int = 6) -> str:
    """As many names as a person reads."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
