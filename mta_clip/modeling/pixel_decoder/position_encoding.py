"""Sine position encoding of feature maps (DETR, arXiv 2005.12872, appendix A.4; as in Mask2Former).

Shapes: D decoder width, h and w = map size.
"""

import math

import torch
from torch import Tensor, nn


class PositionEmbeddingSine(nn.Module):
    """Encodes the row and the column of every pixel of a map, each in half of the channels.

    Rows are numbered 1..h and normalised to (0, 2 pi], columns likewise. Channels 2i and 2i + 1 of a half contain the
    sine and the cosine of the position divided by temperature^(2i / num_feats).

    Args:
        num_feats: channels per axis, D / 2.
        temperature: base of the wavelengths, above 0.

    Raises:
        ValueError: `num_feats` is not positive and even, so that sine and cosine do not form pairs.
    """

    def __init__(self, *, num_feats: int, temperature: float = 10000.0):
        super().__init__()
        if num_feats <= 0 or num_feats % 2:
            raise ValueError(f"num_feats must be positive and even (sine, cosine pairs), got {num_feats}")
        self.num_feats = num_feats
        self.temperature = temperature

    def forward(self, size: tuple[int, int], device: torch.device | None = None) -> Tensor:
        """Encodes a map (h, w) as (h, w, D) float32 in [-1, 1]: the code of the row, then that of the column."""
        h, w = size
        rows = self._code(h, device)[:, None].expand(h, w, -1)
        columns = self._code(w, device)[None].expand(h, w, -1)
        return torch.cat([rows, columns], dim=-1)

    def _code(self, length: int, device: torch.device | None) -> Tensor:
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        position = position / (length + 1e-6) * (2 * math.pi)
        exponent = torch.arange(0, self.num_feats, 2, dtype=torch.float32, device=device) / self.num_feats
        angle = position[:, None] / self.temperature**exponent
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
