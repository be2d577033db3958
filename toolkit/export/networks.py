"""What is exported: each network of the contract as a module of plain tensors.

All have one batch axis and the names of ARCHITECTURE.md, "Networks". Every row has its own
timestep, so that steps of different pictures can share a batch.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from toolkit.errors import InputError
from toolkit.models import Family

FLOAT16_MAX = torch.finfo(torch.float16).max  # 65504


@dataclass(frozen=True)
class Network:
    """module(**inputs) gives the one output. inputs: a batch of two rows of examples."""

    module: nn.Module
    inputs: dict[str, Tensor]
    output: str


def check_range(modules: dict[str, nn.Module]) -> None:
    """Raises InputError for a weight that float16 cannot hold, which rounding would make infinite."""
    for name, module in modules.items():
        for tensor, weight in module.named_parameters():
            if not (largest := float(weight.abs().max())) <= FLOAT16_MAX:
                raise InputError(
                    f"{name}: {tensor} holds {largest:.3g}, and float16, in which weights are stored, ends at "
                    f"{FLOAT16_MAX:.0f}: its training has diverged"
                )


def round_weights(modules: dict[str, nn.Module]) -> None:
    """To FP16 in place, the precision they are stored in; all arithmetic stays FP32. Raises as check_range does."""
    check_range(modules)
    for module in modules.values():
        for weight in module.parameters():
            weight.data = weight.data.half().float()


def halve(network: Network) -> Network:
    """In FP16, weights in place; timesteps stay FP32 (onnx_file says why). Weights must pass check_range."""
    inputs = {
        name: value.half() if value.is_floating_point() and name != "timestep" else value
        for name, value in network.inputs.items()
    }
    return replace(network, module=network.module.half(), inputs=inputs)


class TextEncoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids).last_hidden_state


class ImageEncoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).image_embeds


class UNet(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.model(sample, timestep, encoder_hidden_states).sample


def networks(family: Family) -> dict[str, Network]:
    """The contract's models, in its order."""
    preset = family.preset
    # fused attention kernels have no ONNX form; eager attention is the same arithmetic
    for encoder in (family.text_encoder, family.image_encoder):
        encoder.set_attn_implementation("eager")
    source = torch.Generator("cpu").manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=source)

    states = random(preset.max_length, preset.width)
    latents = random(4, preset.latent_size, preset.latent_size)
    unet = {"sample": latents, "timestep": torch.tensor([981.0, 1.0]), "encoder_hidden_states": states}
    ids = torch.randint(0, 49406, (2, preset.max_length), generator=source)
    ids[:, 0], ids[:, 12:] = 49406, 49407
    return {
        "text_encoder": Network(TextEncoder(family.text_encoder), {"input_ids": ids}, "hidden_states"),
        "image_encoder": Network(
            ImageEncoder(family.image_encoder),
            {"pixel_values": random(3, preset.reference_size, preset.reference_size)},
            "image_embeds",
        ),
        "subject_fuser": Network(
            family.subject_fuser,
            {
                "hidden_states": states,
                "image_embeds": random(preset.max_subjects, preset.width),
                "subject_positions": torch.tensor([[2, 9, -1, -1], [-1, -1, 75, -1]]),
            },
            "hidden_states_augmented",
        ),
        "unet_tdm": Network(UNet(family.unet_tdm), unet, "noise_pred"),
        "unet_sdm": Network(UNet(family.unet_sdm), unet, "noise_pred"),
        "vae_decoder": Network(family.vae, {"latents": latents}, "image"),
    }
