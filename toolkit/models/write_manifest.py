"""Writes the manifest: names and shapes of the tensors that the authors' versions of the libraries write.

Stands alone, because those versions do not run beside today's:

    python3.11 -m venv --without-pip old                         # throw-away; PyTorch may be any
    pip install --no-deps --target old/lib/python3.11/site-packages \\
      transformers==4.25.1 diffusers==0.16.1 huggingface_hub==0.14.1 tokenizers==0.13.3
    old/bin/python toolkit/models/write_manifest.py sd15 > toolkit/models/manifest.json
    old/bin/python toolkit/models/write_manifest.py tiny > toolkit/tests/manifest_tiny.json

Nothing is downloaded and no weight is made: the networks are built on PyTorch's meta device. The second manifest has
the sizes of the tests, so that they can write checkpoints in a layout that is not this project's own.
"""

import json
import sys

import diffusers
import torch
import transformers
from torch import nn

SOURCE = (
    "https://github.com/CodeGoat24/Face-diffuser/blob/2ce69da9534ec1c713d8770cb82d442889df5857/facediffuser/model.py"
)
WHAT = (
    "Names and shapes of the tensors of the module that Face-Diffuser's authors save as SDM/pytorch_model.bin, network "
    "by network; subject_fuser is its postfuse_module. {a..b} stands for every number from a to b. A TDM holds "
    "text_encoder, unet and vae. Folders have the same names, those of the text encoder with `text_model.` before them."
)
SIZES = {
    # Stable Diffusion 1.5's and openai/clip-vit-large-patch14's config.json; what is not here is the classes' default.
    "sd15": {
        "text_encoder": {
            "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768,
            "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 77,
        },
        "image_encoder": {
            "hidden_size": 1024, "intermediate_size": 4096, "projection_dim": 768, "num_hidden_layers": 24,
            "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
        },
        "subject_fuser": {"width": 768},
        "vae": {
            "sample_size": 512, "in_channels": 3, "out_channels": 3, "latent_channels": 4,
            "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
        "unet": {
            "sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2, "cross_attention_dim": 768, "attention_head_dim": 8,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
    },
    "tiny": {
        "text_encoder": {
            "vocab_size": 49408, "hidden_size": 32, "intermediate_size": 64, "projection_dim": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 77,
        },
        "image_encoder": {
            "hidden_size": 48, "intermediate_size": 64, "projection_dim": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
        },
        "subject_fuser": {"width": 32},
        "vae": {
            "sample_size": 128, "in_channels": 3, "out_channels": 3, "latent_channels": 4,
            "block_out_channels": [32, 32, 32, 64], "layers_per_block": 1,
            "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
        "unet": {
            "sample_size": 16, "in_channels": 4, "out_channels": 4, "block_out_channels": [32, 64],
            "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 8,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        },
    },
}  # fmt: skip


class Parts(nn.Module):
    """Modules under the names that the authors' module gives them."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def postfuse(width: int) -> nn.Module:
    def mlp(inner: int) -> nn.Module:
        return Parts(layernorm=nn.LayerNorm(inner), fc1=nn.Linear(inner, width), fc2=nn.Linear(width, width))

    return Parts(mlp1=mlp(2 * width), mlp2=mlp(width), layer_norm=nn.LayerNorm(width))


def networks(sizes: dict) -> dict[str, nn.Module]:
    """The classes whose parts the authors' module takes, as they are saved in folders."""
    text, vision = sizes["text_encoder"], sizes["image_encoder"]
    clip = transformers.CLIPConfig(
        vision_config=vision, text_config={"hidden_size": text["hidden_size"]}, projection_dim=vision["projection_dim"]
    )
    with torch.device("meta"):
        return {
            "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
            "image_encoder": transformers.CLIPModel(clip),
            "vae": diffusers.AutoencoderKL(**sizes["vae"]),
            "unet": diffusers.UNet2DConditionModel(**sizes["unet"]),
            "subject_fuser": postfuse(sizes["subject_fuser"]["width"]),
        }


def authors(network: str, module: nn.Module) -> nn.Module:
    """What the authors' module takes of a network."""
    if network == "text_encoder":
        text = module.text_model
        return Parts(final_layer_norm=text.final_layer_norm, embeddings=text.embeddings, encoder=text.encoder)
    if network == "image_encoder":
        return Parts(vision_model=module.vision_model, visual_projection=module.visual_projection)
    return module


def fold(tensors: dict[str, list[int]]) -> dict[str, list[int]]:
    """Names that differ in one number and agree in shape as one, from the last number to the first."""
    for place in range(max(name.count(".") for name in tensors), -1, -1):
        groups: dict[tuple, list[str]] = {}
        for name, shape in tensors.items():
            parts = name.split(".")
            number = parts[place] if place < len(parts) and parts[place].isdigit() else None
            key = (*parts[:place], None, *parts[place + 1 :]) if number else tuple(parts)
            groups.setdefault((key, tuple(shape)), []).append(number or "")
        tensors = {}
        for (key, shape), numbers in groups.items():
            values = sorted(int(number) for number in numbers if number)
            for first, last in runs(values) if None in key else [(0, 0)]:
                number = f"{{{first}..{last}}}" if last > first else str(first)
                tensors[".".join(number if part is None else part for part in key)] = list(shape)
    return tensors


def runs(values: list[int]) -> list[tuple[int, int]]:
    starts = [v for v in values if v - 1 not in values]
    return [(start, next(v for v in values if v >= start and v + 1 not in values)) for start in starts]


def main(size: str) -> None:
    sizes = SIZES[size]
    tensors = {}
    for network, module in networks(sizes).items():
        tensors[network] = {k: list(v.shape) for k, v in authors(network, module).state_dict().items()}
        names = {name.removeprefix("text_model.") for name in module.state_dict()}  # what WHAT says of folders
        assert names == tensors[network].keys() or network == "image_encoder" and names > tensors[network].keys()
    versions = {m.__name__: m.__version__ for m in (transformers, diffusers, torch)}
    head = {"what": WHAT, "source": SOURCE, "made_by": f"toolkit/models/write_manifest.py {size}", "versions": versions}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for title, table in (("sizes", sizes), ("tensors", {name: fold(t) for name, t in tensors.items()})):
        rows = []
        for name, entries in table.items():
            entries = [f"      {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items()]
            rows.append(f"    {json.dumps(name)}: {{\n" + ",\n".join(entries) + "\n    }")
        lines.append(f"  {json.dumps(title)}: {{\n" + ",\n".join(rows) + "\n  }")
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main(sys.argv[1])
