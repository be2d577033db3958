"""The networks as the sampling sees them: FP32 tensors of one row, or of the two rows of guidance.

Files may hold FP16 inputs and outputs (toolkit.export.onnx_file); the sampling stays FP32 around them, as the
gateway's does.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from toolkit.models import Family


class Networks(Protocol):
    """L tokens, width D, S subject slots, latents h x w."""

    def text_encoder(self, input_ids: Tensor) -> Tensor:
        """[L] int64 → hidden states [L, D]."""

    def image_encoder(self, pixel_values: Tensor) -> Tensor:
        """[3, H, W], CLIP-normalised → image embedding [D]."""

    def subject_fuser(self, hidden_states: Tensor, image_embeds: Tensor, subject_positions: Tensor) -> Tensor:
        """[L, D], [S, D], [S] int64 with -1 for unused slots → augmented hidden states [L, D]."""

    def unet(self, name: str, latents: Tensor, timestep: float, base: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Noise predictions [4, h, w] of `unet_tdm` or `unet_sdm` for two conditionings [L, D]."""

    def vae_decoder(self, latents: Tensor) -> Tensor:
        """[4, h, w], divided by the scaling factor → image [3, 8h, 8w], about [-1, 1]."""

    latent_shape: tuple[int, int, int]
    reference_size: int  # of the image encoder's input
    max_subjects: int


_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


class OnnxNetworks:
    """The exported files in ONNX Runtime, one call for the two rows of a step as the gateway does."""

    def __init__(self, models: Path, threads: int = 2) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._sessions = {
            path.parents[1].name: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for path in sorted(Path(models).glob("*/1/model.onnx"))
        }
        if not self._sessions:
            raise FileNotFoundError(f"{models} holds no <model>/1/model.onnx")
        self._types = {
            name: {tensor.name: tensor.type for tensor in session.get_inputs()}
            for name, session in self._sessions.items()
        }
        self.latent_shape = tuple(self._shape("unet_tdm", "sample"))
        self.reference_size = self._shape("image_encoder", "pixel_values")[1]
        self.max_subjects = self._shape("subject_fuser", "subject_positions")[0]

    def text_encoder(self, input_ids):
        return self._run("text_encoder", input_ids=input_ids[None])[0]

    def image_encoder(self, pixel_values):
        return self._run("image_encoder", pixel_values=pixel_values[None])[0]

    def subject_fuser(self, hidden_states, image_embeds, subject_positions):
        return self._run(
            "subject_fuser",
            hidden_states=hidden_states[None],
            image_embeds=image_embeds[None],
            subject_positions=subject_positions[None],
        )[0]

    def unet(self, name, latents, timestep, base, cond):
        rows = self._run(
            name,
            sample=torch.stack([latents, latents]),
            timestep=torch.full((2,), timestep),
            encoder_hidden_states=torch.stack([base, cond]),
        )
        return rows[0], rows[1]

    def vae_decoder(self, latents):
        return self._run("vae_decoder", latents=latents[None])[0]

    def _run(self, name: str, **inputs: Tensor) -> Tensor:
        types = self._types[name]
        feeds = {key: value.numpy().astype(_TYPES[types[key]], copy=False) for key, value in inputs.items()}
        (output,) = self._sessions[name].run(None, feeds)
        return torch.from_numpy(output).float()

    def _shape(self, name: str, tensor: str) -> list[int]:
        """Of one row."""
        return next(i.shape[1:] for i in self._sessions[name].get_inputs() if i.name == tensor)


class TorchNetworks:
    """The diffusers and transformers classes themselves."""

    def __init__(self, family: Family) -> None:
        self.family = family.eval()
        preset = family.preset
        self.latent_shape = (4, preset.latent_size, preset.latent_size)
        self.reference_size = preset.reference_size
        self.max_subjects = preset.max_subjects

    @torch.no_grad()
    def text_encoder(self, input_ids):
        return self.family.text_encoder(input_ids=input_ids[None]).last_hidden_state[0]

    @torch.no_grad()
    def image_encoder(self, pixel_values):
        return self.family.image_encoder(pixel_values=pixel_values[None]).image_embeds[0]

    @torch.no_grad()
    def subject_fuser(self, hidden_states, image_embeds, subject_positions):
        return self.family.subject_fuser(hidden_states[None], image_embeds[None], subject_positions[None])[0]

    @torch.no_grad()
    def unet(self, name, latents, timestep, base, cond):
        unet = getattr(self.family, name)
        rows = unet(torch.stack([latents, latents]), timestep, torch.stack([base, cond])).sample
        return rows[0], rows[1]

    @torch.no_grad()
    def vae_decoder(self, latents):
        return self.family.vae.decode(latents[None])[0]
