"""Multi-scale deformable attention in pure PyTorch (Deformable DETR, arXiv 2010.04159, equation 3).

Shapes: B images, S pixels of all levels, N queries, D decoder width, A heads, d = D / A, L levels, P points per head,
query and level; J = A * L * P samples of a query; h and w = a level. Positions (x, y) run from 0 at the left and top
edge of a level to 1 at the right and bottom edge.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import deformable_sampling, short_softmax


def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Weighted sums (B, N, D) float32 of bilinear samples of all levels, heads concatenated; maps are zero outside.

    Args:
        value: (B, S, A, d), pixels of all levels, level by level and row by row.
        spatial_shapes: (h, w) of the L levels.
        sampling_locations: (B, N, A, L, P, 2), as (x, y).
        attention_weights: (B, N, A, L, P), not normalised here.

    Raises:
        ValueError: the pixels of the levels do not add up to S.
    """
    sizes = [(int(h), int(w)) for h, w in spatial_shapes]
    if sum(h * w for h, w in sizes) != value.shape[1]:
        raise ValueError(f"the levels {sizes} do not add up to the {value.shape[1]} pixels of value")
    scale = torch.tensor([(w, h) for h, w in sizes])[:, None].to(sampling_locations, non_blocking=True)
    in_pixels = sampling_locations * scale - 0.5
    x, y = in_pixels.float().flatten(2, 4).unbind(-1)
    return deformable_sampling(value.float(), x, y, attention_weights.float().flatten(2), sizes)


def reference_points(sizes: Sequence[tuple[int, int]], device: torch.device | None = None) -> Tensor:
    """Positions (S, 2) float32 of all pixel centres, (x, y) in (0, 1), level by level and row by row."""
    points = []
    for h, w in sizes:  # expanded, as repeat_interleave cannot be exported for any size
        y = (torch.arange(h, dtype=torch.float32, device=device) + 0.5) / h
        x = (torch.arange(w, dtype=torch.float32, device=device) + 0.5) / w
        points.append(torch.stack([x.expand(h, w), y[:, None].expand(h, w)], dim=-1).flatten(0, 1))
    return torch.cat(points)


class MSDeformAttn(nn.Module):
    """Each query samples a few points per level around its position; it predicts their offsets and weights itself.

    Linear layers follow autocast, but positions, weights and sampling are always float32, as half precision cannot
    distinguish neighbouring pixels.

    Args:
        embed_dim: D.
        num_heads: A.
        num_levels: L.
        num_points: P.
        sampling: form of the sampling, auto | triton | embedding_bag | grid_sample; see modeling/ops.

    Raises:
        ValueError: D is not a multiple of A, or `sampling` is unknown.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 3,
        num_points: int = 4,
        sampling: str = "auto",
    ):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        if sampling not in deformable_sampling.forms:
            known = ", ".join(deformable_sampling.forms)
            raise ValueError(f"MODEL.SEM_SEG_HEAD.SAMPLING is {sampling!r}, expected one of {known}")
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.sampling = sampling
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, samples * 2)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Spreads the heads evenly over the circle, with point i at distance i + 1 pixels and equal weights."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1)
        offsets = directions[:, None, None] * distances[:, None]  # (A, 1, P, 2)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def reference_pixels(
        self, sizes: Sequence[tuple[int, int]], device: torch.device | None = None
    ) -> tuple[Tensor, Tensor]:
        """Where the pixels of all levels lie in each level, from the (h, w) of the levels.

        Returns:
            x and y, each (S, J) float32 in pixels; the centre of the first pixel is at 0.
        """
        x, y = reference_points(sizes, device)[:, None].unbind(-1)
        per_level = torch.tensor(sizes)[:, None].expand(-1, self.num_points, -1).flatten(0, 1)
        per_sample = per_level.repeat(self.num_heads, 1).to(device, non_blocking=True)
        return x * per_sample[:, 1] - 0.5, y * per_sample[:, 0] - 0.5

    def forward(
        self, query: Tensor, value: Tensor, reference: tuple[Tensor, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Attention (B, N, D) of the queries to the pixels of all levels.

        Args:
            query: (B, N, D), position encoding included.
            value: (B, S, D).
            reference: x and y, each (N, J) float32: positions of the queries in each level, in pixels.
            sizes: (h, w) of the L levels.
        """
        value = self.value_proj(value).unflatten(-1, (self.num_heads, -1))
        offsets = self.sampling_offsets  # rows alternate between x and y: two products keep each contiguous
        x, y = (F.linear(query, offsets.weight[i::2], offsets.bias[i::2]).float() + reference[i] for i in (0, 1))
        weights = short_softmax(self.attention_weights(query).float().unflatten(-1, (self.num_heads, -1)))
        sampled = deformable_sampling(value, x, y, weights.flatten(2), sizes, form=self.sampling)
        return self.output_proj(sampled)
