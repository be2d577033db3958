"""Where a UNet looks for its subjects: localising cross-attention (FastComposer, section 4.2).

Half of the heads of every cross-attention are taught to look at a subject's token inside that
subject's mask and nowhere else. It keeps people apart, and the SDM finds the one token of 77
that carries a face much sooner; the other heads go on reading the sentence.
"""

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F


class _Recorder:
    """diffusers' plain attention, which in training also keeps its probabilities."""

    def __init__(self, maps: list[Tensor]) -> None:
        self.maps = maps

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, *args, **kwargs):
        batch = hidden_states.shape[0]

        def heads(x: Tensor) -> Tensor:
            return x.view(batch, -1, attn.heads, x.shape[-1] // attn.heads).transpose(1, 2)

        query = heads(attn.to_q(hidden_states))
        key, value = heads(attn.to_k(encoder_hidden_states)), heads(attn.to_v(encoder_hidden_states))
        probabilities = (query @ key.transpose(-1, -2) * attn.scale).float().softmax(dim=-1)
        if torch.is_grad_enabled():
            # The states' own gradient stays out: a face that looks like every other is easiest to find.
            still = heads(attn.to_k(encoder_hidden_states.detach()))
            half = max(1, attn.heads // 2)
            looks = (query[:, :half] @ still[:, :half].transpose(-1, -2) * attn.scale).float().softmax(dim=-1)
            self.maps.append(looks.mean(dim=1))  # [B, pixels, L]
        mixed = (
            (probabilities.to(value.dtype) @ value).transpose(1, 2).reshape(batch, -1, query.shape[1] * query.shape[3])
        )
        return attn.to_out[1](attn.to_out[0](mixed))


class Localisation:
    """Records a UNet's cross-attention; loss() says how far from the subjects it looks."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.maps: list[Tensor] = []
        recorder = _Recorder(self.maps)
        kept = unet.attn_processors
        unet.set_attn_processor({k: recorder if "attn2" in k else v for k, v in kept.items()})

    def loss(self, masks: Tensor, positions: Tensor) -> Tensor:
        """Mean attention to a subject's token outside its mask minus inside, of the last forward.

        masks [B, S, h, w] in [0, 1]; positions [B, S], -1 = unused slot. In [-1, 1], lower is
        better; 0 if no slot is used. A subject that is not in the picture (cropped away) has no say.
        Forgets the recorded maps.
        """
        used = (positions >= 0) & (masks.sum(dim=(2, 3)) > 0)
        total = masks.new_zeros(())
        for attention in self.maps:
            side = round(attention.shape[1] ** 0.5)
            inside = F.interpolate(masks, size=(side, side), mode="area").flatten(2)
            index = positions.clamp(min=0).unsqueeze(1).expand(-1, attention.shape[1], -1)
            looks = torch.gather(attention, 2, index).transpose(1, 2)  # [B, S, pixels]
            within = (looks * inside).sum(-1) / inside.sum(-1).clamp(min=1e-3)
            beside = (looks * (1 - inside)).sum(-1) / (1 - inside).sum(-1).clamp(min=1e-3)
            total = total + ((beside - within) * used).sum() / used.sum().clamp(min=1)
        count = max(1, len(self.maps))
        self.maps.clear()
        return total / count
