"""Bilinear resizing of maps that exist, or are wanted, only a few rows at a time.

Shapes: C maps, h and w = source, H and W = output, r rows.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK_BYTES = {"cpu": 1 << 24}  # small enough for caches, large enough for threads
_BLOCK_BYTES_DEVICE = 1 << 28  # elsewhere: enough to fill the device


def row_blocks(height: int, bytes_per_row: int, device: torch.device) -> Iterator[slice]:
    """Rows 0..height-1 from top to bottom, as many at a time as the device handles well.

    Args:
        bytes_per_row: memory that a row takes.
    """
    step = max(1, _BLOCK_BYTES.get(device.type, _BLOCK_BYTES_DEVICE) // max(bytes_per_row, 1))
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def source_rows(length: int, resized_length: int) -> tuple[Tensor, Tensor, Tensor]:
    """For rows of a resized map: the two rows they lie between, and the weight of the second (align_corners False).

    Args:
        length: rows of the map.
        resized_length: rows of the resized map, H.

    Returns:
        (H,) int64, int64 and float32, on the CPU.
    """
    position = ((torch.arange(resized_length) + 0.5) * (length / resized_length) - 0.5).clamp(min=0)
    upper = position.long().clamp(max=length - 1)
    weight = position - upper
    return upper, (upper + (weight > 0)).clamp(max=length - 1), weight


class RowResizer:
    """Bilinear resizing (align_corners False) of (C, h, w) maps to (C, H, W), any output rows at a time.

    Args:
        size: (h, w).
        output_size: (H, W).
    """

    def __init__(self, size: tuple[int, int], output_size: tuple[int, int]) -> None:
        self.size, self.output_size = tuple(size), tuple(output_size)
        self.upper, self.lower, self.weight = source_rows(size[0], output_size[0])

    def source(self, rows: slice) -> slice:
        """The source rows that output rows are made from."""
        return slice(int(self.upper[rows.start]), int(self.lower[rows.stop - 1]) + 1)

    def blocks(self, channels: int, device: torch.device) -> Iterator[slice]:
        """Output rows from top to bottom, few enough that neither they nor what they are made from takes much memory.

        Args:
            channels: numbers per pixel of the output.
        """
        columns = max(self.output_size[1], self.size[1] * self.size[0] // self.output_size[0])
        return row_blocks(self.output_size[0], 4 * channels * columns, device)

    def __call__(self, maps: Tensor, rows: slice) -> Tensor:
        """Resized rows.

        Args:
            maps: (C, r, w), the rows `source(rows)` of the source.
            rows: of the output.

        Returns:
            (C, r', W); `maps` itself where there is nothing to resize.
        """
        if self.size[0] != self.output_size[0]:
            first = self.upper[rows.start].item()
            upper, lower = (x[rows].to(maps.device) - first for x in (self.upper, self.lower))
            maps = torch.lerp(maps[:, upper], maps[:, lower], self.weight[rows, None].to(maps))
        if self.size[1] != self.output_size[1]:
            size = (maps.shape[1], self.output_size[1])
            maps = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
        return maps
