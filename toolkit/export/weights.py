"""PyTorch weights out of the exported files, so that they need not be shipped twice.

The exporter renames, transposes and shares weights. Each ONNX file therefore says in its metadata
where every parameter went, found by value when it was written.

The autoencoder's encoder serves nothing, so Triton has no file of it. Training needs it, and finds
it in the family's `training/` folder, beside the log of the stages that made the weights.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch import nn

from toolkit.errors import InputError
from toolkit.export.networks import networks
from toolkit.models import Family, Preset, new_family
from toolkit.train import record

PARAMETERS = "pytorch_parameters"
PRESET = "preset"
ENCODER = Path("training/vae_encoder.safetensors")
# The autoencoder's other half makes training data only and is not served.
_UNUSED = ("autoencoder.encoder.", "autoencoder.quant_conv.")


def locate(module: nn.Module, model: onnx.ModelProto) -> dict[str, tuple[str, bool]]:
    """Parameter → (initializer, whether it holds the transpose).

    Raises ValueError if the graph lacks a parameter.
    """
    places = {_bytes(numpy_helper.to_array(t)): t.name for t in model.graph.initializer}
    found = {}
    for name, value in module.state_dict().items():
        value = value.numpy()
        if place := places.get(_bytes(value)):
            found[name] = (place, False)
        elif place := value.ndim == 2 and places.get(_bytes(value.T)):
            found[name] = (place, True)
        elif not name.startswith(_UNUSED):
            raise ValueError(f"the exported graph holds no parameter equal to {name}")
    return found


def state_dict(path: Path, module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters of `module` from its ONNX file; parts that are not exported keep the module's."""
    model = onnx.load(path)
    places = _metadata(model, PARAMETERS)
    if not places:
        raise InputError(
            f"{path} does not say where its parameters lie, as it is not stored in FP16 and computed in FP32: train "
            "from the weights that the family was made from"
        )
    values = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in model.graph.initializer}
    state = module.state_dict()
    for name, (place, transposed) in places.items():
        value = values[place].T if transposed else values[place]
        state[name] = torch.from_numpy(np.array(value)).reshape(state[name].shape)
    return state


def read_family(folder: Path) -> Family:
    """The networks of an exported family as PyTorch modules, ready to be trained further.

    Where the family has no file of it, the autoencoder's encoder is random and `config` says so
    (`random_encoder`). Raises ValueError if a network's file is missing.
    """
    folder = Path(folder)
    paths = {path.parents[1].name: path for path in folder.glob("models/*/1/model.onnx")}
    if "text_encoder" not in paths:
        raise ValueError(f"{folder / 'models'} lacks text_encoder/1/model.onnx")
    sizes = _metadata(onnx.load(paths["text_encoder"]), PRESET)
    family = new_family(preset=Preset(**{k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()}))
    for name, network in networks(family).items():
        if name not in paths:
            raise ValueError(f"{folder / 'models'} lacks {name}/1/model.onnx")
        network.module.load_state_dict(state_dict(paths[name], network.module))
    if (encoder := folder / ENCODER).exists():
        missing, unexpected = family.vae.load_state_dict(load_file(encoder), strict=False)
        if unexpected or any(name.startswith(_UNUSED) for name in missing):
            raise ValueError(f"{encoder} is of another autoencoder than the family's")
    else:
        family.config["random_encoder"] = True
    description = json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))
    family.config["scaling_factor"] = description["scaling_factor"]
    family.config["license"] = description["license"]
    family.config["weights_sha256"] = description["weights_sha256"]
    family.config["trained"] = record.read(folder / "training" / record.LOG)
    return family.eval()


def write_vae_encoder(family: Family, folder: Path) -> Path:
    """The autoencoder's encoder in FP16, for read_family; returns the file."""
    path = folder / ENCODER
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half().contiguous() for k, v in family.vae.state_dict().items() if k.startswith(_UNUSED)}
    save_file(weights, path)
    return path


def _metadata(model: onnx.ModelProto, key: str):
    return json.loads(next((entry.value for entry in model.metadata_props if entry.key == key), "null"))


def _bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, dtype=np.float32).tobytes()
