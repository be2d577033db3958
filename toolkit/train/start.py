"""Where a training starts: three kinds of folder as one Family with fresh optimisers.

    exported family   models/*/1/model.onnx, pipeline.json   the committed weights (toolkit.export.weights)
    family            family.json                            what `train` writes (toolkit.models.save)
    Stable Diffusion  model_index.json                       diffusers' layout of SD 1.5: unet, vae,
                                                             text_encoder, tokenizer, scheduler

A work directory keeps a copy in `start/`: the folder itself may change (a new export) or go away,
and a resumed training must still begin where it began.
"""

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizerFast, CLIPVisionModelWithProjection

from toolkit.errors import InputError
from toolkit.export.weights import read_family
from toolkit.models import MARKER, Family, PatchAutoencoder, Preset, SubjectFuser, load, save, write_tokenizer
from toolkit.models.family import IMAGE_MEAN, IMAGE_STD
from toolkit.train.loop import checkpoint_path
from toolkit.train.stages import STAGES


def begin(work_dir: Path, folder: Path, image_encoder: Path | None = None, seed: int = 0) -> None:
    """Lets the stages of a new work directory start from the weights in `folder`.

    seed: of what the folder lacks, such as a subject fuser for Stable Diffusion. Nothing happens if
    they do already. Raises InputError if the work directory began otherwise.
    """
    start, source = Path(work_dir) / "start", str(Path(folder).resolve())
    if start.exists():
        began = json.loads((start / "source.json").read_text(encoding="utf-8"))["folder"]
        if began != source:
            raise InputError(f"{work_dir} began from {began}, not from {source}: take another --work-dir")
        return
    if any(checkpoint_path(work_dir, stage).exists() for stage in STAGES):
        raise InputError(f"{work_dir} has checkpoints that began from random weights: take another --work-dir")
    torch.manual_seed(seed)
    family = read_start(folder, image_encoder)
    part = start.with_name("start.part")
    save(family, part)
    (part / "source.json").write_text(json.dumps({"folder": source}) + "\n", encoding="utf-8")
    part.rename(start)


def start_of(work_dir: Path) -> Family | None:
    """What the work directory began from; None = random weights."""
    start = Path(work_dir) / "start"
    return load(start) if start.exists() else None


def read_start(folder: Path, image_encoder: Path | None = None) -> Family:
    """The family in a folder of one of the three kinds; `config["from"]` names it.

    image_encoder: a folder of CLIPVisionModelWithProjection, which Stable Diffusion lacks.
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
            f"{folder} holds no weights to start from: expected an exported family (models/, pipeline.json), a family "
            "that training wrote (family.json) or a Stable Diffusion folder (model_index.json)"
        )
    family.config["from"] = name
    return family


def read_stable_diffusion(folder: Path, image_encoder: Path) -> Family:
    """Stable Diffusion 1.5's networks, the scene model's UNet also as the subject model's, and a fresh
    subject fuser. All sizes come from the loaded networks."""
    if not (image_encoder / "config.json").is_file():
        raise InputError(
            f"Stable Diffusion has no image encoder and {image_encoder} holds none: give the folder of a CLIP "
            "vision model, such as openai/clip-vit-large-patch14 for SD 1.5, as --image-encoder"
        )
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").float()
    vision = CLIPVisionModelWithProjection.from_pretrained(image_encoder).float()
    unets = [UNet2DConditionModel.from_pretrained(folder / "unet").float() for _ in range(2)]
    vae = AutoencoderKL.from_pretrained(folder / "vae").float()
    preset = _sizes(folder.resolve().name, text_encoder, vision, unets[0], vae)
    return Family(
        tokenizer=_tokenizer(folder / "tokenizer"),
        text_encoder=text_encoder,
        image_encoder=vision,
        subject_fuser=SubjectFuser(preset.width),
        unet_tdm=unets[0],
        unet_sdm=unets[1],
        vae=PatchAutoencoder(vae, patch=1),  # folding single pixels changes nothing
        # Stable Diffusion's own scheduler does not clip latents; DDIM's default would.
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False),
        config={
            "preset": asdict(preset),
            "scaling_factor": vae.config.scaling_factor,
            "image_mean": IMAGE_MEAN,
            "image_std": IMAGE_STD,
            "trained": [],
            "from": preset.name,
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
            f"{vae.config.latent_channels}: inpainting and depth models cannot be trained here"
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
    with TemporaryDirectory() as temporary:
        ours = write_tokenizer(Path(temporary))
    vocabulary, expected = CLIPTokenizerFast.from_pretrained(folder).get_vocab(), ours.get_vocab()
    for entries in (vocabulary, expected):
        entries.pop(MARKER, None)
    if vocabulary != expected:
        raise InputError(f"{folder} is not CLIP's vocabulary of {len(expected)} entries, in which captions are read")
    return ours
