"""Multi-scale deformable attention in pure PyTorch (Deformable DETR, arXiv 2010.04159, equation 3).

Shapes: B images, S pixels of all levels, N queries, D width, A heads, d = D / A, L levels, P points per head, query
and level; M = A * L * P samples of a query. Positions are (x, y), 0..1 from the left and top edge of a level.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sampling import TableLayout, sample_levels


def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum of bilinear samples of all levels, zero outside the maps (`grid_sample` with align_corners=False).

    Args:
        value: (B, S, A, d), pixels of all levels, row by row.
        spatial_shapes: (h, w) of the L levels.
        sampling_locations: (B, N, A, L, P, 2), as (x, y).
        attention_weights: (B, N, A, L, P), any values.

    Returns:
        (B, N, D) float32, heads concatenated.

    Raises:
        ValueError: the levels do not add up to S.
    """
    spatial_shapes = [(int(h), int(w)) for h, w in spatial_shapes]
    if sum(h * w for h, w in spatial_shapes) != value.shape[1]:
        raise ValueError(f"the levels {spatial_shapes} do not add up to the {value.shape[1]} pixels of value")
    heads, points = attention_weights.shape[2], attention_weights.shape[4]
    layout = TableLayout.build(spatial_shapes, heads=heads, points=points, device=value.device)
    x, y = sampling_locations.float().flatten(2, 4).unbind(-1)
    x = x * layout.scale_x + 0.5
    y = y * layout.scale_y + 0.5
    return sample_levels(value.float(), x, y, attention_weights.float().flatten(2), layout)


def reference_points(spatial_shapes: Sequence[tuple[int, int]], device: torch.device | None = None) -> Tensor:
    """Positions (S, 2) of the centres of all pixels as (x, y) in (0, 1), level by level, row by row."""
    points = []
    for h, w in spatial_shapes:
        y = (torch.arange(h, dtype=torch.float32, device=device) + 0.5) / h
        x = (torch.arange(w, dtype=torch.float32, device=device) + 0.5) / w
        points.append(torch.stack([x.repeat(h), y.repeat_interleave(w)], dim=-1))
    return torch.cat(points)


class MSDeformAttn(nn.Module):
    """Every query samples few points per level around its own position, and weighs them; both are predicted from it.

    Inside autocast the linear layers follow it, but positions, weights and sampling are float32: half precision cannot
    tell neighbouring pixels apart.

    Args:
        embed_dim: D.
        num_heads: A.
        num_levels: L.
        num_points: P.

    Raises:
        ValueError: D is not a multiple of A.
    """

    def __init__(self, *, embed_dim: int = 256, num_heads: int = 8, num_levels: int = 3, num_points: int = 4):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, samples * 2)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look in directions spread over the circle, point i at distance i + 1 pixels, all with equal weight."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1)
        offsets = directions[:, None, None] * distances[:, None]  # (A, 1, P, 2)
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def layout(self, spatial_shapes: Sequence[tuple[int, int]], device: torch.device) -> TableLayout:
        """What sampling needs to know about maps of these sizes; to be shared by all layers and calls."""
        return TableLayout.build(list(spatial_shapes), heads=self.num_heads, points=self.num_points, device=device)

    def forward(self, query: Tensor, value: Tensor, reference: tuple[Tensor, Tensor], layout: TableLayout) -> Tensor:
        """Attends.

        Args:
            query: (B, N, D), position encoding included.
            value: (B, S, D), pixels of all levels.
            reference: x and y (N, M) float32 of the queries in the slot coordinates of `layout`; see `slot_references`.

        Returns:
            (B, N, D).
        """
        value = self.value_proj(value).unflatten(-1, (self.num_heads, -1))
        x, y, weights = self._samples(query, reference)
        with torch.autocast(query.device.type, enabled=False):
            sampled = sample_levels(value, x, y, weights, layout)
        return self.output_proj(sampled)

    def _samples(self, query: Tensor, reference: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Slot coordinates x and y of the samples and their weights, each (B, N, M) float32."""
        offsets, logits = self.sampling_offsets, self.attention_weights
        # one product gives x, y and weights as contiguous blocks of columns
        weight = torch.cat([offsets.weight[0::2], offsets.weight[1::2], logits.weight])
        bias = torch.cat([offsets.bias[0::2], offsets.bias[1::2], logits.bias])
        x, y, logits = F.linear(query, weight, bias).float().chunk(3, dim=-1)
        logits = logits.unflatten(-1, (self.num_heads, -1))
        # softmax by hand: torch's own is five times slower over so few values
        weights = (logits - logits.detach().amax(dim=-1, keepdim=True)).exp()
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return x + reference[0], y + reference[1], weights.flatten(2)


def slot_references(layout: TableLayout) -> tuple[Tensor, Tensor]:
    """The pixels themselves as queries: x and y (S, M) float32 of their centres in the slot coordinates of a layout."""
    points = reference_points(layout.spatial_shapes, layout.scale_x.device)
    return points[:, :1] * layout.scale_x + 0.5, points[:, 1:] * layout.scale_y + 0.5
