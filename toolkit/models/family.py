"""All networks of a family, and their folder on disk."""

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizerFast,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from toolkit.models.autoencoder import PatchAutoencoder
from toolkit.models.checkpoint import open_weights, weight_file
from toolkit.models.layout import read_folder, read_network
from toolkit.models.presets import MINI, Preset
from toolkit.models.subject_fuser import SubjectFuser
from toolkit.models.tokenizer import VOCABULARY, write_tokenizer

# CLIP's image statistics, in [0, 1] per channel.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

NETWORKS = ("text_encoder", "image_encoder", "subject_fuser", "unet_tdm", "unet_sdm", "vae")


@dataclass
class Family:
    """One instance of every network, the tokenizer, the noise schedule and the family's numbers.

    config: preset (sizes), scaling_factor (latents * scaling_factor have unit variance),
    image_mean and image_std, trained (records of the stages that have run). Where the weights began
    with given ones also `from` (their name), `license` (theirs), and what was not among them and is
    not trained yet: `random_encoder` (the autoencoder's), `random_fuser`.
    """

    tokenizer: CLIPTokenizerFast
    text_encoder: CLIPTextModel
    image_encoder: CLIPVisionModelWithProjection
    subject_fuser: SubjectFuser
    unet_tdm: UNet2DConditionModel
    unet_sdm: UNet2DConditionModel
    vae: PatchAutoencoder
    scheduler: DDIMScheduler = field(default_factory=lambda: new_scheduler())
    config: dict = field(default_factory=dict)

    @property
    def preset(self) -> Preset:
        return preset_from(self.config)

    def networks(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in NETWORKS}

    def eval(self) -> "Family":
        for network in self.networks().values():
            network.eval().requires_grad_(False)
        return self


def preset_from(config: dict) -> Preset:
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config["preset"].items()}
    return Preset(**values)


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )


def new_text_encoder(preset: Preset) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=preset.width,
            intermediate_size=4 * preset.width,
            projection_dim=preset.width,
            num_hidden_layers=preset.text_layers,
            num_attention_heads=preset.text_heads,
            max_position_embeddings=preset.max_length,
            hidden_act="quick_gelu",
            bos_token_id=VOCABULARY - 2,
            eos_token_id=VOCABULARY - 1,
            pad_token_id=VOCABULARY - 1,
        )
    )


def new_image_encoder(preset: Preset) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=preset.vision_width,
            intermediate_size=4 * preset.vision_width,
            projection_dim=preset.width,
            num_hidden_layers=preset.vision_layers,
            num_attention_heads=preset.vision_heads,
            image_size=preset.reference_size,
            patch_size=preset.vision_patch,
            hidden_act="quick_gelu",
        )
    )


def new_unet(preset: Preset) -> UNet2DConditionModel:
    outer = len(preset.unet_channels) - 1
    return UNet2DConditionModel(
        sample_size=preset.latent_size,
        in_channels=4,
        out_channels=4,
        block_out_channels=preset.unet_channels,
        layers_per_block=preset.unet_layers,
        down_block_types=("CrossAttnDownBlock2D",) * outer + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * outer,
        cross_attention_dim=preset.width,
        # diffusers' SD 1.5 configuration too gives the number of heads under this name
        attention_head_dim=preset.unet_heads,
    )


def new_vae(preset: Preset) -> PatchAutoencoder:
    levels = len(preset.vae_channels)
    channels = 3 * preset.vae_patch**2
    return PatchAutoencoder(
        AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=preset.vae_channels,
            layers_per_block=preset.vae_layers,
            latent_channels=4,
            norm_num_groups=32,
            sample_size=preset.image_size // preset.vae_patch,
        ),
        preset.vae_patch,
    )


def new_family(seed: int = 0, preset: Preset = MINI) -> Family:
    """Random networks of the preset's sizes."""
    torch.manual_seed(seed)
    family = Family(
        tokenizer=new_tokenizer(),
        text_encoder=new_text_encoder(preset),
        image_encoder=new_image_encoder(preset),
        subject_fuser=SubjectFuser(preset.width),
        unet_tdm=new_unet(preset),
        unet_sdm=new_unet(preset),
        vae=new_vae(preset),
        config={
            "preset": asdict(preset),
            "scaling_factor": 0.18215,
            "image_mean": IMAGE_MEAN,
            "image_std": IMAGE_STD,
            "trained": [],
        },
    )
    return family.eval()


@cache
def new_tokenizer() -> CLIPTokenizerFast:
    with TemporaryDirectory() as folder:
        return write_tokenizer(Path(folder))


def save(family: Family, folder: Path) -> None:
    """Writes every network into its sub-folder, FP32 safetensors; load() reads it back."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / "tokenizer")
    for name in ("text_encoder", "image_encoder", "unet_tdm", "unet_sdm"):
        getattr(family, name).save_pretrained(folder / name)
    family.vae.autoencoder.save_pretrained(folder / "vae")
    (folder / "subject_fuser").mkdir(exist_ok=True)
    save_file(family.subject_fuser.state_dict(), folder / "subject_fuser" / "model.safetensors")
    family.scheduler.save_pretrained(folder / "scheduler")
    # last, so that a folder with family.json is complete
    (folder / "family.json").write_text(json.dumps(family.config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> Family:
    """Reads what save() wrote; all networks FP32, in eval mode, without gradients.

    The weights stay mapped to their files. Raises InputError, with the tensor's name, where they do not fit.
    """
    folder = Path(folder)
    config = json.loads((folder / "family.json").read_text(encoding="utf-8"))
    preset = preset_from(config)
    fuser = folder / "subject_fuser"
    return Family(
        tokenizer=CLIPTokenizerFast.from_pretrained(folder / "tokenizer"),
        text_encoder=read_folder("text_encoder", folder / "text_encoder"),
        image_encoder=read_folder("image_encoder", folder / "image_encoder"),
        subject_fuser=read_network("subject_fuser", {"width": preset.width}, open_weights(fuser), weight_file(fuser)),
        unet_tdm=read_folder("unet", folder / "unet_tdm"),
        unet_sdm=read_folder("unet", folder / "unet_sdm"),
        vae=PatchAutoencoder(read_folder("vae", folder / "vae"), preset.vae_patch),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        config=config,
    ).eval()
