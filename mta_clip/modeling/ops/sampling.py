"""Deformable sampling: sums of weighted bilinear samples of several maps (Deformable DETR, arXiv 2010.04159, eq. 3).

Shapes: B images, S pixels of all levels, N queries, A heads, d channels per head, L levels, P points per head, query
and level; J = A * L * P samples of a query, in the order head, level, point.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def deformable_sampling(
    value: Tensor, x: Tensor, y: Tensor, weights: Tensor, sizes: Sequence[tuple[int, int]]
) -> Tensor:
    """Sums the weighted samples of each head; maps are zero outside their borders.

    Args:
        value: (B, S, A, d), pixels of all levels, level by level and row by row.
        x: (B, N, J) float32, in pixels of the sample's level; 0 is the centre of the first pixel.
        y: (B, N, J) float32, likewise.
        weights: (B, N, J) float32.
        sizes: (height, width) of the L levels.

    Returns:
        (B, N, A * d), in the dtype of `value`.
    """
    heads = value.shape[2]
    total: Any = 0
    maps = value.float().permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in sizes], dim=-1)  # (B * A, d, h * w)
    x, y, weights = (t.unflatten(-1, (heads, len(sizes), -1)).transpose(1, 2).flatten(0, 1) for t in (x, y, weights))
    for level, (height, width) in enumerate(sizes):
        grid = torch.stack([(2 * x[:, :, level] + 1) / width - 1, (2 * y[:, :, level] + 1) / height - 1], dim=-1)
        samples = F.grid_sample(maps[level].unflatten(-1, (height, width)), grid, align_corners=False)
        total = total + (samples * weights[:, None, :, level]).sum(-1)  # (B * A, d, N)
    return total.unflatten(0, (-1, heads)).permute(0, 3, 1, 2).flatten(2).to(value.dtype)


def deformable_sampling_by_triton(
    value: Tensor, x: Tensor, y: Tensor, weights: Tensor, sizes: Sequence[tuple[int, int]]
) -> Tensor:
    """`deformable_sampling` as a Triton kernel; see triton_sampling.py.

    Raises:
        ImportError: Triton is not installed.
        ValueError: the tensors are on no CUDA device.
    """
    try:
        from . import triton_sampling
    except ImportError as error:
        raise ImportError(
            "MODEL.SEM_SEG_HEAD.SAMPLING triton needs Triton, which PyTorch's CUDA builds for Linux bring along: "
            "pip install triton, or set it to auto"
        ) from error
    return triton_sampling.deformable_sampling(value, x, y, weights, sizes)
