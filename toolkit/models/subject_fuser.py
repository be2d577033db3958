"""The postfuse module: writes what an image shows into the text states of its subject.

After FastComposer (https://github.com/mit-han-lab/fastcomposer, fastcomposer/model.py,
`FastComposerPostfuseModule`), whose shape Face-Diffuser's SDM keeps.

Notation: s = state of a subject's token [D], e = its image embedding [D], [..] = concatenation.

    h = MLP1([s, e]) + s        MLP1: LayerNorm(2D), Linear 2D->D, GELU, Linear D->D
    y = LayerNorm(MLP2(h) + h)  MLP2: LayerNorm(D),  Linear  D->D, GELU, Linear D->D
"""

import torch
from torch import Tensor, nn


class FuseMLP(nn.Module):
    """LayerNorm, Linear, GELU, Linear; with a residual where input and output agree in width."""

    def __init__(self, in_dim: int, out_dim: int, hidden_dim: int, residual: bool) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(in_dim)
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim)
        self.act_fn = nn.GELU()
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc2(self.act_fn(self.fc1(self.layernorm(x))))
        return y + x if self.residual else y


class SubjectFuser(nn.Module):
    """Augments the text states at the subjects' tokens.

    Inputs (B rows, L tokens, width D, S subject slots):
      hidden_states      [B, L, D] of the text encoder
      image_embeds       [B, S, D] of the image encoder; unused slots are ignored
      subject_positions  [B, S] int64, index of the subject's token, -1 = unused slot
    Output: hidden_states_augmented [B, L, D]; tokens of no subject pass unchanged.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp1 = FuseMLP(2 * width, width, width, residual=False)
        self.mlp2 = FuseMLP(width, width, width, residual=True)
        self.layer_norm = nn.LayerNorm(width)
        # Untrained, a face shall be heard beside the noun: PyTorch's own scale makes it a fifth as
        # loud, and the subject model learns to ignore it before it learns to read it.
        nn.init.normal_(self.mlp1.fc2.weight, std=4 * width**-0.5)

    def forward(self, hidden_states: Tensor, image_embeds: Tensor, subject_positions: Tensor) -> Tensor:
        used = subject_positions >= 0
        # An unused slot gathers token 0, whose fused state is dropped below. Not clamp(): TensorRT clips no integers.
        index = torch.where(used, subject_positions, 0)
        states = torch.gather(hidden_states, 1, index.unsqueeze(-1).expand(-1, -1, hidden_states.shape[-1]))
        fused = self.mlp1(torch.cat([states, image_embeds], dim=-1)) + states
        fused = self.layer_norm(self.mlp2(fused))
        # one-hot [B, S, L] instead of a scatter: no duplicate-index rule to rely on, and it exports
        # to plain matrix products. Two subjects never share a token.
        tokens = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        one_hot = ((index.unsqueeze(-1) == tokens) & used.unsqueeze(-1)).to(hidden_states.dtype)
        replaced = one_hot.sum(dim=1).unsqueeze(-1)
        return hidden_states * (1 - replaced) + one_hot.transpose(1, 2) @ fused.to(hidden_states.dtype)
