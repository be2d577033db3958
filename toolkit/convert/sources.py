"""Weights from elsewhere as one Family. `convert` serves it, `train --from` goes on from it.

    exported family   models/*/1/model.onnx, pipeline.json   what `export` and `convert` write (toolkit.export.weights)
    family            family.json                            what `train` writes (toolkit.models.save)
    Stable Diffusion  model_index.json                       diffusers' layout of SD 1.5: unet, vae,
                                                             text_encoder, tokenizer, scheduler
    the authors'      two state dicts, SDM and TDM           with the Stable Diffusion folder that they began with
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizerFast, CLIPVisionModelWithProjection

from toolkit.errors import InputError
from toolkit.export.description import LICENSE
from toolkit.export.weights import read_family
from toolkit.models import MARKER, Family, PatchAutoencoder, Preset, SubjectFuser, load
from toolkit.models.checkpoint import Weights, open_weights, some, weight_file
from toolkit.models.family import IMAGE_MEAN, IMAGE_STD, new_tokenizer
from toolkit.models.layout import known, manifest, new_network, read_config, read_folder, read_network, todays_name

# Parts of the authors' modules (facediffuser/model.py and model_text_only.py) → the networks that they hold.
SDM = {
    "unet": "unet",
    "text_encoder": "text_encoder",
    "vae": "vae",
    "image_encoder": "image_encoder",
    "postfuse_module": "subject_fuser",
}
TDM = {"unet": "unet", "text_encoder": "text_encoder", "vae": "vae"}

STABLE_DIFFUSION_LICENSE = "CreativeML Open RAIL-M"
# https://github.com/CodeGoat24/Face-diffuser, README, "License"
AUTHORS_LICENSE = "non-commercial academic use only (Face-Diffuser's authors); Stable Diffusion: CreativeML Open RAIL-M"


def read(folder: Path, image_encoder: Path | None = None) -> Family:
    """The family in a folder of one of the first three kinds; `config["from"]` names it.

    image_encoder: a folder of CLIPVisionModelWithProjection or of a whole CLIPModel, which Stable Diffusion lacks.
    Raises InputError if the folder is of no kind, or its networks do not fit each other.
    """
    folder = Path(folder)
    if (folder / "model_index.json").is_file():
        return read_stable_diffusion(folder, image_encoder or folder / "image_encoder")
    if image_encoder:
        raise InputError("--image-encoder belongs to a Stable Diffusion folder; a family has its own image encoder")
    if (folder / "family.json").is_file():
        family, name = load(folder), folder.resolve().name
    elif any(folder.glob("models/*/1/model.onnx")):
        family = read_family(folder)
        name = f"{family.preset.name}@{family.config.pop('weights_sha256')[:12]}"
    else:
        raise InputError(
            f"{folder} holds no weights: expected an exported family (models/, pipeline.json), a family that training "
            "wrote (family.json) or a Stable Diffusion folder (model_index.json)"
        )
    if "from" not in family.config:  # trained from nothing
        family.config.setdefault("license", LICENSE)
    family.config["from"] = name
    return family


def read_stable_diffusion(folder: Path, image_encoder: Path) -> Family:
    """Stable Diffusion 1.5's networks, the scene model's UNet also as the subject model's, and a random subject fuser
    (`config["random_fuser"]`). All sizes come from the loaded networks."""
    if not (image_encoder / "config.json").is_file():
        raise InputError(
            f"Stable Diffusion has no image encoder and {image_encoder} holds none: give the folder of a CLIP "
            "vision model, such as openai/clip-vit-large-patch14 for SD 1.5, as --image-encoder"
        )
    _is_stable_diffusion(folder)
    unets = [read_folder("unet", folder / "unet") for _ in range(2)]
    text_encoder = read_folder("text_encoder", folder / "text_encoder")
    family = _family(folder, unets, text_encoder, read_folder("image_encoder", image_encoder))
    family.config |= {"from": family.preset.name, "license": STABLE_DIFFUSION_LICENSE, "random_fuser": True}
    return family


def read_authors(folder: Path, sdm: Path, tdm: Path, image_encoder: Path | None = None) -> tuple[Family, list[str]]:
    """What the authors' script puts together (facediffuser/inference.py), and notes on what it leaves out.

    Each UNet comes from its state dict; text encoder (for both prompts), image encoder and subject fuser from the
    SDM's; tokenizer, scheduler, autoencoder and sizes from the Stable Diffusion folder. image_encoder: a folder with
    config.json, the image encoder's sizes; without it they are CLIP ViT-L/14's. Raises InputError.
    """
    folder, files = Path(folder), {"SDM": weight_file(sdm), "TDM": weight_file(tdm)}
    _is_stable_diffusion(folder)
    configs = {network: read_config(network, folder / network) for network in TDM.values()}
    configs["image_encoder"] = (
        read_config("image_encoder", image_encoder) if image_encoder else manifest()["sizes"]["image_encoder"]
    )
    configs["subject_fuser"] = {"width": new_network("text_encoder", configs["text_encoder"]).config.hidden_size}
    weights = {which: _parts(which, file) for which, file in files.items()}
    read_all = {
        which: {network: read_network(network, configs[network], part, files[which]) for network, part in parts.items()}
        for which, parts in weights.items()
    }
    sdm_networks = read_all["SDM"]
    family = _family(
        folder,
        [read_all["TDM"]["unet"], sdm_networks["unet"]],
        sdm_networks["text_encoder"],
        sdm_networks["image_encoder"],
        sdm_networks["subject_fuser"],
    )
    family.config |= {"from": "face-diffuser", "license": AUTHORS_LICENSE}
    family.config["defaults"] = {"scheduler": "pndm"}  # the folder's, which the authors' script inherits
    compared = [(which, "vae", family.vae.autoencoder, folder / "vae") for which in files]
    compared.append(("TDM", "text_encoder", family.text_encoder, files["SDM"]))
    notes = [
        f"the {network} in {files[which]} {difference}; the one in {place} is used, as in the authors' inference"
        for which, network, used, place in compared
        if (difference := _difference(network, weights[which][network], used, place))
    ]
    return family, notes


def _parts(which: str, file: Path) -> dict[str, Weights]:
    """The networks of an authors' state dict. Raises InputError unless they are those of an SDM, or of a TDM."""
    parts = {"SDM": SDM, "TDM": TDM}[which]
    weights = open_weights(file)
    if all(name.startswith("module.") for name in weights):  # of DistributedDataParallel, on several GPUs
        weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
    found: dict[str, Weights] = {network: {} for network in parts.values()}
    unexpected = []
    for name, weight in weights.items():
        part, _, rest = name.partition(".")
        if part in parts:
            found[parts[part]][rest] = weight
        else:
            unexpected.append(weight.name)
    missing = [part for part, network in parts.items() if not found[network]]
    if not missing and not unexpected:
        return found
    faults = [f"nothing under {', '.join(missing)}"] if missing else []
    faults += [f"unexpected {some(unexpected)}"] if unexpected else []
    others = {"SDM": missing == ["image_encoder", "postfuse_module"], "TDM": "postfuse_module" in str(unexpected)}
    hint = ". Are --sdm and --tdm swapped?" if others[which] else ""
    raise InputError(
        f"{file} is no {which} of Face-Diffuser's authors, which holds {', '.join(parts)}: {'; '.join(faults)}"
        f"{known(weights)}{hint}"
    )


def _difference(network: str, weights: Weights, used: nn.Module, place: Path) -> str:
    """How weights differ from those that take their place; "" if in nothing."""
    names = {name: weight for old, weight in weights.items() if (name := todays_name(network, old))}
    largest, where, count, rounded = 0.0, "", 0, set()
    for name, weight in names.items():
        value = used.get_parameter(name)
        tensor = weight.tensor.reshape(value.shape)
        if torch.equal(tensor.float(), value):
            continue
        if torch.equal(tensor, value.to(tensor.dtype)):
            rounded.add(str(tensor.dtype).removeprefix("torch."))
            continue
        count += 1
        difference = float((tensor.float() - value).abs().max())
        largest, where = max((largest, where), (difference, weight.name))
    if count:
        return f"differs from that in {place} in {count} of {len(names)} tensors, most in {where}, by {largest:.1e}"
    return f"is that in {place} rounded to {', '.join(sorted(rounded))}" if rounded else ""


def _is_stable_diffusion(folder: Path) -> None:
    """Raises InputError for pipelines of other networks; sizes are read_network's matter."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise InputError(f"{folder} is no Stable Diffusion folder in diffusers' layout: it has no model_index.json")
    if not (folder / "unet" / "config.json").is_file():
        name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
        raise InputError(f"{index} describes a {name} and {folder} has no unet: expected Stable Diffusion 1.x")


def _family(
    folder: Path,
    unets: list[UNet2DConditionModel],
    text_encoder: CLIPTextModel,
    image_encoder: CLIPVisionModelWithProjection,
    subject_fuser: SubjectFuser | None = None,
) -> Family:
    """unets: scene model's, subject model's. The subject fuser is random if None, the rest the folder's."""
    vae = read_folder("vae", folder / "vae")
    preset = _sizes(folder.resolve().name, text_encoder, image_encoder, unets[0], vae)
    return Family(
        tokenizer=_tokenizer(folder / "tokenizer"),
        text_encoder=text_encoder,
        image_encoder=image_encoder,
        subject_fuser=subject_fuser or SubjectFuser(preset.width),
        unet_tdm=unets[0],
        unet_sdm=unets[1],
        vae=PatchAutoencoder(vae, patch=1),  # folding single pixels changes nothing
        # Stable Diffusion's own scheduler does not clip latents; DDIM's default would. How timesteps are spaced is the
        # sampler's matter; the folder says how its own sampler does it.
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False, timestep_spacing="leading"),
        config={
            "preset": asdict(preset),
            "scaling_factor": vae.config.scaling_factor,
            "image_mean": IMAGE_MEAN,
            "image_std": IMAGE_STD,
            "trained": [],
        },
    ).eval()


def _sizes(
    name: str,
    text_encoder: CLIPTextModel,
    image_encoder: CLIPVisionModelWithProjection,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
) -> Preset:
    text, vision = text_encoder.config, image_encoder.config
    widths = {
        "the text encoder's hidden size": text.hidden_size,
        "the UNet's cross attention": unet.config.cross_attention_dim,
        "the image encoder's projection": vision.projection_dim,
    }
    if len(set(widths.values())) > 1:
        raise InputError("networks of different width: " + ", ".join(f"{k} {v}" for k, v in widths.items()))
    if unet.config.in_channels != vae.config.latent_channels:
        raise InputError(
            f"the UNet reads {unet.config.in_channels} channels, the autoencoder's latents have "
            f"{vae.config.latent_channels}: inpainting and depth models have no place here"
        )
    return Preset(
        name=name,
        width=text.hidden_size,
        text_layers=text.num_hidden_layers,
        text_heads=text.num_attention_heads,
        max_length=text.max_position_embeddings,
        image_size=unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1),
        reference_size=vision.image_size,
        vision_width=vision.hidden_size,
        vision_layers=vision.num_hidden_layers,
        vision_heads=vision.num_attention_heads,
        vision_patch=vision.patch_size,
        unet_channels=tuple(unet.config.block_out_channels),
        unet_layers=unet.config.layers_per_block,
        unet_heads=unet.config.attention_head_dim,
        vae_patch=1,
        vae_channels=tuple(vae.config.block_out_channels),
        vae_layers=vae.config.layers_per_block,
    )


def _tokenizer(folder: Path) -> CLIPTokenizerFast:
    """CLIP's tokenizer with the subject marker, if the folder's vocabulary is CLIP's."""
    ours = new_tokenizer()
    vocabulary, expected = CLIPTokenizerFast.from_pretrained(folder).get_vocab(), ours.get_vocab()
    for entries in (vocabulary, expected):
        entries.pop(MARKER, None)
    if vocabulary != expected:
        raise InputError(f"{folder} is not CLIP's vocabulary of {len(expected)} entries, in which captions are read")
    return ours
