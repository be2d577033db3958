"""The mini metrics' networks: face detector, face embedder, image tower and text tower.

All are small residual networks over pixels that were folded into channels first, so that one core
trains them in minutes. None shares a weight or an identity with a model under test.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 128  # of pictures at the detector and the image tower
FACE_SIZE = 64  # of a crop at the embedder
EMBEDDING = 128
STRIDE = 8  # pixels a cell of the detector
MARGIN = 1.12  # side of a crop / side of the head's box
MAX_TOKENS = 40


class Block(nn.Module):
    """Two 3x3 convolutions with a residual (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, dilation, dilation, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.skip(x))


def trunk(patch: int, widths: Sequence[int]) -> nn.Sequential:
    """RGB [B, 3, H, W] to [B, widths[-1], H / (patch * 2 ** (len(widths) - 1)), ...]."""
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(patch),
        nn.Conv2d(3 * patch**2, widths[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    layers += [Block(a, b, stride=2) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*layers)


class Detector(nn.Module):
    """Where heads are: a heat map of their centres and a box a cell (Zhou et al., Objects as Points, 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk(4, (32, 64))
        self.context = nn.Sequential(Block(64, 64, dilation=2), Block(64, 64, dilation=2))
        self.head = nn.Conv2d(64, 4, 1)
        nn.init.constant_(self.head.bias, 0.0)
        nn.init.constant_(self.head.bias[:1], -3.0)  # few cells hold a head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, 128, 128] in [-1, 1] to heat logits [B, 16, 16] and [B, 3, 16, 16]: from the middle
        of each cell to the head's centre (x, y, in cells), and the log of its side / 64 pixels."""
        out = self.head(self.context(self.trunk(pixels))).float()
        return out[:, 0], out[:, 1:]


class Embedder(nn.Module):
    """Who a face is: [B, 3, 64, 64] in [-1, 1] to unit vectors [B, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk(2, (32, 64, 96, 128))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(128 * 16, EMBEDDING, bias=False), nn.BatchNorm1d(EMBEDDING))

    def forward(self, faces: Tensor) -> Tensor:
        return F.normalize(self.head(self.trunk(faces)).float(), dim=-1)


class ImageTower(nn.Module):
    """What a picture shows: [B, 3, 128, 128] in [-1, 1] to unit vectors [B, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk(4, (48, 72, 112, 160))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(160 * 16, EMBEDDING))

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.head(self.trunk(pixels)).float(), dim=-1)


class TextTower(nn.Module):
    """What a sentence says: rows of its own word table [B, up to 40] to unit vectors [B, 128].

    Row 0 pads, row 1 stands for every word that no caption has. Sentences are read whole (no causal
    mask) and averaged over their words.
    """

    def __init__(self, words: int, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words + 2, EMBEDDING, padding_idx=0)
        self.positions = nn.Parameter(0.02 * torch.randn(MAX_TOKENS, EMBEDDING))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(EMBEDDING, heads, 4 * EMBEDDING, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.head = nn.Sequential(nn.LayerNorm(EMBEDDING), nn.Linear(EMBEDDING, EMBEDDING))

    def forward(self, words: Tensor) -> Tensor:
        padding = words == 0
        states = self.embedding(words) + self.positions[: words.shape[1]]
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1)
        mean = (states.float() * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
        return F.normalize(self.head(mean).float(), dim=-1)


def crop_faces(pixels: Tensor, boxes: Tensor) -> Tensor:
    """The square around each head: pixels [B, 3, H, W] and boxes [B, 3] (centre x, y, side, in
    pixels), one a row, to [B, 3, 64, 64]. Beyond the picture's edge its last pixels go on."""
    height, width = pixels.shape[-2:]
    half = boxes[:, 2] * MARGIN / 2
    zero = torch.zeros_like(half)
    rows = [half * 2 / width, zero, boxes[:, 0] * 2 / width - 1, zero, half * 2 / height, boxes[:, 1] * 2 / height - 1]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), (len(boxes), 3, FACE_SIZE, FACE_SIZE), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
