"""Deformable sampling as one weighted sum of table rows per query and head.

A bilinear sample is a weighted sum of four pixels, and a head of deformable attention sums L * P weighted samples. Its
output is therefore one bag of 4 * L * P weighted rows, which `F.embedding_bag` sums without storing the samples. The
rows come from a table in which every level has a border of zeros, so points outside a map need no special case.

Shapes: as in sampling.py; h and w = a level. A cell is the top left of the four pixels of a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_BLOCK_SAMPLES = {"cpu": 1 << 17}  # summed at a time: their rows and weights fit into a cache


@dataclass(frozen=True)
class TableLayout:
    """Where pixels lie in the zero-bordered table, and constants for index arithmetic; depends on the sizes only.

    A level of (h, w) pixels takes h + 2 rows of w + 1 slots: one border row above, one below, and a border slot at the
    left of each row, which is also the right border of the row before. Coordinates count slots: pixel (0, 0) of a level
    is at x = 1, y = 1.
    """

    sizes: tuple[tuple[int, int], ...]  # (height, width) of the L levels
    starts: tuple[int, ...]  # first slot of each level
    slots: int  # number of slots per image
    heads: int
    widths: Tensor  # (J,) float32
    heights: Tensor  # (J,) float32
    row_stride: Tensor  # (J,) int32, table rows from a pixel to the one below
    first_row: Tensor  # (J,) int32, table row of x = 0, y = 0

    @classmethod
    def build(cls, sizes: Sequence[tuple[int, int]], *, heads: int, points: int, device: torch.device) -> "TableLayout":
        """The layout for L levels of the given (h, w), with A heads and P points per head, query and level."""
        counts = [(h + 2) * (w + 1) for h, w in sizes]
        starts = tuple(sum(counts[:level]) for level in range(len(counts)))

        def per_sample(values: list[int], dtype: torch.dtype) -> Tensor:
            sent = torch.tensor(values, dtype=dtype).to(device, non_blocking=True)  # without waiting for the device
            return sent.repeat_interleave(points).repeat(heads)

        head = torch.arange(heads, dtype=torch.int32, device=device).repeat_interleave(len(sizes) * points)
        return cls(
            sizes=tuple(sizes),
            starts=starts,
            # the four pixels of a point at the last corner reach one row and two slots past the end
            slots=sum(counts) + sizes[-1][1] + 3,
            heads=heads,
            widths=per_sample([w for _, w in sizes], torch.float32),
            heights=per_sample([h for h, _ in sizes], torch.float32),
            row_stride=per_sample([(w + 1) * heads for _, w in sizes], torch.int32),
            first_row=per_sample([start * heads for start in starts], torch.int32) + head,
        )

    def level(self, table: Tensor, level: int) -> Tensor:
        """One level of a table (B, slots, A, d), as a view (B, h + 2, w + 1, A, d)."""
        h, w = self.sizes[level]
        rows = table[:, self.starts[level] : self.starts[level] + (h + 2) * (w + 1)]
        return rows.unflatten(1, (h + 2, w + 1))

    def pixels(self, tokens: Tensor) -> list[Tensor]:
        """The levels of tokens (B, S, A, d), as views (B, h, w, A, d)."""
        levels = tokens.split([h * w for h, w in self.sizes], dim=1)
        return [level.unflatten(1, size) for level, size in zip(levels, self.sizes, strict=True)]


def deformable_sampling(
    value: Tensor, x: Tensor, y: Tensor, weights: Tensor, sizes: Sequence[tuple[int, int]]
) -> Tensor:
    """`sampling.deformable_sampling`, summed in float32; differentiable once with respect to its four tensors."""
    points = x.shape[-1] // (value.shape[2] * len(sizes))
    layout = TableLayout.build(sizes, heads=value.shape[2], points=points, device=value.device)
    if torch.compiler.is_compiling() and not torch.is_grad_enabled():
        return _sum_bags(_zero_bordered(value, layout), x, y, weights, layout).to(value.dtype)
    return _differentiable_sampling(value, x, y, weights, layout)


@torch.compiler.disable  # its backward pass cannot be traced
def _differentiable_sampling(value: Tensor, x: Tensor, y: Tensor, weights: Tensor, layout: TableLayout) -> Tensor:
    return _Sampling.apply(value, x, y, weights, layout)


class _Sampling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, y: Tensor, weights: Tensor, layout: TableLayout) -> Tensor:
        table = _zero_bordered(value, layout)
        ctx.layout = layout
        ctx.save_for_backward(table, x, y, weights)
        limit = _BLOCK_SAMPLES.get(x.device.type, x.numel())
        samples = (part.split(max(1, limit // (x.shape[0] * x.shape[2])), dim=1) for part in (x, y, weights))
        blocks = zip(*samples, strict=True)
        return torch.cat([_sum_bags(table, bx, by, bw, layout).to(value.dtype) for bx, by, bw in blocks], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, x, y, weights = ctx.saved_tensors
        layout = ctx.layout
        cells, fx, fy = _locate(x, y, layout)
        grad = grad.float().reshape(-1, table.shape[-1])  # one row per bag
        grad_value = grad_x = grad_y = grad_weights = None
        if any(ctx.needs_input_grad[1:4]):
            rows = _corner_rows(cells, layout)
            grad_corners = _corner_weight_gradient(grad, table, rows.view(len(grad), -1)).view_as(rows)
            top_left, top_right, bottom_left, bottom_right = grad_corners.unbind(-1)
            top = torch.lerp(top_left, top_right, fx)
            bottom = torch.lerp(bottom_left, bottom_right, fx)
            grad_weights = torch.lerp(top, bottom, fy)
            slope_x = torch.lerp(top_right - top_left, bottom_right - bottom_left, fy)
            # a clamped coordinate lies outside the map, where moving the point changes nothing
            grad_x = weights * slope_x * _inside(x, layout.widths)
            grad_y = weights * (bottom - top) * _inside(y, layout.heights)
        if ctx.needs_input_grad[0]:
            grad_value = _value_gradient(grad, cells, _corner_weights(fx, fy, weights), table, layout)
        return grad_value, grad_x, grad_y, grad_weights, None


def _sum_bags(table: Tensor, x: Tensor, y: Tensor, weights: Tensor, layout: TableLayout) -> Tensor:
    """The forward pass: (B, N, A * d) from samples (B, N, J)."""
    cells, fx, fy = _locate(x, y, layout)
    bags = x.shape[0] * x.shape[1] * layout.heads
    sampled = F.embedding_bag(
        _corner_rows(cells, layout).view(bags, -1),
        table.flatten(0, 2),
        mode="sum",
        per_sample_weights=_corner_weights(fx, fy, weights).view(bags, -1),
    )
    return sampled.view(*x.shape[:2], -1)


def _zero_bordered(value: Tensor, layout: TableLayout) -> Tensor:
    """Table (B, slots, A, d) float32 with the pixels of `value` (B, S, A, d) inside a border of zeros."""
    table = value.new_zeros(value.shape[0], layout.slots, *value.shape[2:], dtype=torch.float32)
    for level, pixels in enumerate(layout.pixels(value)):
        layout.level(table, level)[:, 1:-1, 1:] = pixels
    return table


def _locate(x: Tensor, y: Tensor, layout: TableLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Table rows of the cells, (B, N, J) int32, and positions inside them, fx and fy (B, N, J) in [0, 1)."""
    zero = torch.zeros_like(layout.widths)
    x = torch.clamp(x + 1, zero, layout.widths + 1)
    y = torch.clamp(y + 1, zero, layout.heights + 1)
    image = torch.arange(x.shape[0], dtype=torch.int32, device=x.device)[:, None, None] * (layout.slots * layout.heads)
    cells = torch.addcmul(layout.first_row + image, y.to(torch.int32), layout.row_stride)
    cells.add_(x.to(torch.int32), alpha=layout.heads)
    return cells, x.frac(), y.frac()


def _inside(pixel: Tensor, size: Tensor) -> Tensor:
    return (pixel > -1) & (pixel < size)


def _corner_rows(cells: Tensor, layout: TableLayout) -> Tensor:
    """Table rows (B, N, J, 4) int32 of the pixels at top left, top right, bottom left and bottom right."""
    below = cells + layout.row_stride
    return torch.stack([cells, cells + layout.heads, below, below + layout.heads], dim=-1)


def _corner_weights(fx: Tensor, fy: Tensor, weights: Tensor) -> Tensor:
    """Bilinear weights (B, N, J, 4) of those pixels, times the weights of the samples."""
    right = weights * fx
    left = weights - right
    bottom_right, bottom_left = right * fy, left * fy
    return torch.stack([left - bottom_left, right - bottom_right, bottom_left, bottom_right], dim=-1)


def _corner_weight_gradient(grad: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """Dot products (bags, 4 * L * P) of the gradients of bags, (bags, d), with the table rows they read."""
    with torch.enable_grad():
        weights = grad.new_zeros(rows.shape, requires_grad=True)
        bags = F.embedding_bag(rows, table.flatten(0, 2), mode="sum", per_sample_weights=weights)
    return torch.autograd.grad(bags, weights, grad)[0]


def _value_gradient(grad: Tensor, cells: Tensor, corner_weights: Tensor, table: Tensor, layout: TableLayout) -> Tensor:
    """Gradient (B, S, A, d) of the pixels.

    The transposed sum is again a sum of bags: once samples are sorted by cell, each cell is a bag of queries. One sort
    serves all four corners; the sums of a corner are then shifted to their pixels as whole maps.
    """
    cells, order = torch.sort(cells.flatten(), stable=True)
    bag_starts = torch.searchsorted(
        cells, torch.arange(table.shape[:3].numel(), dtype=torch.int32, device=cells.device), out_int32=True
    )
    samples_per_bag = len(order) // len(grad)
    queries = torch.div(order, samples_per_bag, rounding_mode="floor").to(torch.int32)
    weights = corner_weights.view(-1, 4).index_select(0, order).t().contiguous()
    corners = [
        F.embedding_bag(queries, grad, bag_starts, mode="sum", per_sample_weights=weight).view_as(table)
        for weight in weights
    ]
    pixels = []
    for level in range(len(layout.sizes)):
        top_left, top_right, bottom_left, bottom_right = (layout.level(corner, level) for corner in corners)
        pixels.append(
            top_left[:, 1:-1, 1:] + top_right[:, 1:-1, :-1] + bottom_left[:, :-2, 1:] + bottom_right[:, :-2, :-1]
        )
    return torch.cat([level.flatten(1, 2) for level in pixels], dim=1)
