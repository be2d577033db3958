"""Which tensors a network consists of, by name and shape, and what older libraries called them.

manifest.json holds what the versions wrote with which Face-Diffuser's authors made their weights (transformers 4.25 and
diffusers 0.16; write_manifest.py), at Stable Diffusion 1.5's sizes. Between those and today's names there are these
differences and no others, as a test holds:

    text encoder       folders have `text_model.` before every name; the authors' module and today's class do not
    text, image        the buffer `position_ids`, which counts 0, 1, 2 …; today's classes do not save it
    VAE                attention is `query`, `key`, `value`, `proj_attn`; today `to_q`, `to_k`, `to_v`, `to_out.0`

Two more come from elsewhere: a VAE converted from CompVis' checkpoints may keep those four as 1x1 convolutions, and the
folder of a whole CLIPModel, as openai/clip-vit-large-patch14 is, holds CLIP's text half beside the image encoder.
"""

import json
import math
import re
from functools import cache
from itertools import product
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from toolkit.errors import InputError
from toolkit.models.checkpoint import Weights, open_weights, progress, some, weight_file
from toolkit.models.subject_fuser import SubjectFuser

MANIFEST = Path(__file__).with_name("manifest.json")
BUILD = {
    "text_encoder": lambda config: CLIPTextModel(CLIPTextConfig.from_dict(config)),
    "image_encoder": lambda config: CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config)),
    "subject_fuser": lambda config: SubjectFuser(config["width"]),
    "unet": UNet2DConditionModel.from_config,
    "vae": AutoencoderKL.from_config,
}
# What config.json must call itself: a class of diffusers or a model type of transformers.
CALLED = {
    "text_encoder": "clip_text_model",
    "image_encoder": "clip_vision_model",
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
}
RENAMED = {
    "text_encoder": {r"^text_model\.": ""},
    "vae": {
        r"(attentions\.\d+)\.query\.": r"\1.to_q.",
        r"(attentions\.\d+)\.key\.": r"\1.to_k.",
        r"(attentions\.\d+)\.value\.": r"\1.to_v.",
        r"(attentions\.\d+)\.proj_attn\.": r"\1.to_out.0.",
    },
}
IGNORED = {
    "text_encoder": r"(text_model\.)?embeddings\.position_ids",
    "image_encoder": r"vision_model\.embeddings\.position_ids|text_model\..+|text_projection\.weight|logit_scale",
}
_ONE_BY_ONE = {"vae": r".*attentions\.\d+\.(to_[qkv]|to_out\.0)\.weight"}
_COMPVIS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
# Width of the cross attention → whose it is.
_OTHERS = {1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


def read_folder(network: str, folder: Path) -> nn.Module:
    """The network (a key of BUILD) in a folder of diffusers or transformers: config.json and weights."""
    return read_network(network, read_config(network, folder), open_weights(folder), weight_file(folder))


def read_network(network: str, config: dict, weights: Weights, file: Path) -> nn.Module:
    """The network of this configuration with these weights, FP32, in eval mode, without gradients.

    config: as config.json has it. file: that the weights are from, for messages. Weights in FP32 stay mapped to it.
    Raises InputError, with the names of the tensors, if any is missing, unexpected, of another shape or no number.
    """
    module = new_network(network, config)
    found = _todays(network, weights, file)
    _check(network, file, found, shapes(network, module))
    state, no_numbers = {}, []
    size = sum(weight.tensor.nbytes for weight in found.values())
    with progress(f"{network} of {file}", size) as bar:
        for name, weight in found.items():
            value = weight.tensor.float().reshape(module.get_parameter(name).shape).contiguous()
            if not math.isfinite(value.sum(dtype=torch.float64)):
                no_numbers.append(weight.name)
            state[name] = value
            bar.update(weight.tensor.nbytes)
    if no_numbers:
        raise InputError(f"{file}: NaN or infinity in {some(no_numbers)}: the file is damaged or its training failed")
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def new_network(network: str, config: dict) -> nn.Module:
    """Without weights: its parameters lie on the meta device."""
    with init_empty_weights():
        return BUILD[network](config)


def read_config(network: str, folder: Path) -> dict:
    """Of a network in a folder. Raises InputError if it is missing, no JSON or of another class."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("model_type") == "clip" and network == "image_encoder":  # the image half of a whole CLIPModel
            config = config["vision_config"] | {"projection_dim": config["projection_dim"]}
        called = config.get("_class_name") or config.get("model_type")
        if called != CALLED[network]:
            raise InputError(f"{path} describes a {called}: expected a {CALLED[network]}")
        new_network(network, config)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing, which describes the {network}") from error
    except InputError:
        raise
    except Exception as error:  # whatever the library makes of a strange configuration
        raise InputError(f"{path} describes no {CALLED[network]}: {error}") from error
    return config


def shapes(network: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
    """What a network of the module's sizes must hold, by today's names: at Stable Diffusion 1.5's sizes the manifest's
    tensors; at others those of today's class, in all but its sizes configured as Stable Diffusion 1.5's."""
    standard = manifest()["sizes"][network]
    config = getattr(module, "config", module)
    own = {key: _plain(config[key] if isinstance(config, dict) else getattr(config, key)) for key in standard}
    if own == standard:
        tensors = manifest_tensors(network)
        return {today: shape for name, shape in tensors.items() if (today := todays_name(network, name))}
    return {name: tuple(value.shape) for name, value in new_network(network, own).state_dict().items()}


def todays_name(network: str, name: str) -> str | None:
    """Of a tensor that any of the versions wrote; None for what is ignored."""
    if re.fullmatch(IGNORED.get(network, r"(?!)"), name):
        return None
    for pattern, replacement in RENAMED.get(network, {}).items():
        name = re.sub(pattern, replacement, name)
    return name


@cache
def manifest(path: Path = MANIFEST) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def manifest_tensors(network: str, path: Path = MANIFEST) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network in the authors' module; `{a..b}` in the manifest is every number from a to b."""
    tensors = {}
    for name, shape in manifest(path)["tensors"][network].items():
        parts = [_numbers(part) for part in re.split(r"(\{\d+\.\.\d+\})", name)]
        tensors |= {"".join(choice): tuple(shape) for choice in product(*parts)}
    return tensors


def _numbers(part: str) -> list[str]:
    if not part.startswith("{"):
        return [part]
    first, last = map(int, part[1:-1].split(".."))
    return [str(number) for number in range(first, last + 1)]


def _todays(network: str, weights: Weights, file: Path) -> Weights:
    found: Weights = {}
    for old, weight in weights.items():
        name = todays_name(network, old)
        if name in found:
            raise InputError(f"{file} holds {found[name].name} and {weight.name}, two names of the same tensor")
        if name:
            found[name] = weight
    return found


def _check(network: str, file: Path, found: Weights, expected: dict[str, tuple[int, ...]]) -> None:
    faults = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [weight.name for name, weight in found.items() if name not in expected],
        "of another shape": [],
        "no floating-point numbers": [w.name for w in found.values() if not w.tensor.is_floating_point()],
    }
    for name, weight in found.items():
        shape = _shape(network, name, weight.tensor)
        if shape != expected.get(name, shape):
            faults["of another shape"].append(f"{weight.name} ({_by(shape)} instead of {_by(expected[name])})")
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {some(names)}" for fault, names in faults.items() if names)
        kind = f"no {network} of Stable Diffusion 1.5's kind in the sizes of its configuration"
        raise InputError(f"{file} is {kind}: {listed}{known(found)}")


def _shape(network: str, name: str, tensor: Tensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    one_by_one = shape[2:] == (1, 1) and re.fullmatch(_ONE_BY_ONE.get(network, r"(?!)"), name)
    return shape[:2] if one_by_one else shape


def known(found: Weights) -> str:
    """What strange weights are, if they are well known."""
    if any(name.startswith(_COMPVIS) for name in found):
        return (
            ". This is a checkpoint in CompVis' layout, all in one file: load it with diffusers' "
            "StableDiffusionPipeline.from_single_file and write it as a folder with save_pretrained"
        )
    for name, weight in found.items():
        if name.endswith("attn2.to_k.weight") and (who := _OTHERS.get(weight.tensor.shape[-1])):
            width = weight.tensor.shape[-1]
            return f". This is {who}: {weight.name} reads a prompt {width} wide, Stable Diffusion 1.x's 768"
    return ""


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
