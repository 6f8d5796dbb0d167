"""Bilinear resizing of maps that are available, or needed, only a few rows at a time.

Shapes: C maps (such as one per class), h and w = their size, H and W = the image they are resized to, r rows.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK_BYTES = {"cpu": 1 << 23}  # small enough for caches, large enough for threads
_BLOCK_BYTES_DEVICE = 1 << 28  # elsewhere: enough to fill the device


def row_blocks(height: int, bytes_per_row: int, device: torch.device) -> Iterator[slice]:
    """Splits rows into blocks whose size suits the device.

    Args:
        height: number of rows.
        bytes_per_row: memory that a row takes.
        device: where the rows are computed.

    Yields:
        Slices of 0..height-1, from top to bottom.
    """
    step = max(1, _BLOCK_BYTES.get(device.type, _BLOCK_BYTES_DEVICE) // max(bytes_per_row, 1))
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def source_rows(length: int, resized_length: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each row of a resized map, the two source rows it lies between (align_corners False).

    Args:
        length: rows of the map, h.
        resized_length: rows of the resized map, H.

    Returns:
        Upper rows (H,) int64, lower rows (H,) int64 and the weight of the lower row (H,) float32, all on the CPU.
    """
    position = ((torch.arange(resized_length) + 0.5) * (length / resized_length) - 0.5).clamp(min=0)
    upper = position.long().clamp(max=length - 1)
    weight = position - upper
    return upper, (upper + (weight > 0)).clamp(max=length - 1), weight


class RowResizer:
    """Bilinear resizing (align_corners False) of maps (C, h, w) to (C, H, W), a few rows of the output at a time.

    Args:
        size: (h, w).
        output_size: (H, W).
    """

    def __init__(self, size: tuple[int, int], output_size: tuple[int, int]) -> None:
        self.size, self.output_size = tuple(size), tuple(output_size)
        self.upper, self.lower, self.weight = source_rows(size[0], output_size[0])

    def source(self, rows: slice) -> slice:
        """The rows of the source that the given rows of the output are computed from."""
        return slice(int(self.upper[rows.start]), int(self.lower[rows.stop - 1]) + 1)

    def blocks(self, channels: int, device: torch.device) -> Iterator[slice]:
        """Splits the output into blocks of rows so small that neither they nor their source rows take much memory.

        Args:
            channels: numbers per pixel of the output.
            device: where the rows are computed.

        Yields:
            Slices of rows of the output, from top to bottom.
        """
        columns = max(self.output_size[1], self.size[1] * self.size[0] // self.output_size[0])
        return row_blocks(self.output_size[0], 4 * channels * columns, device)

    def __call__(self, maps: Tensor, rows: slice) -> Tensor:
        """Computes rows of the output.

        Args:
            maps: (C, r, w), rows `source(rows)` of the source.
            rows: which rows of the output.

        Returns:
            (C, r', W), where r' is the number of `rows`; `maps` itself if there is nothing to resize.
        """
        if self.size[0] != self.output_size[0]:
            first = self.upper[rows.start].item()
            upper, lower = (x[rows].to(maps.device) - first for x in (self.upper, self.lower))
            maps = torch.lerp(maps[:, upper], maps[:, lower], self.weight[rows, None].to(maps))
        if self.size[1] != self.output_size[1]:
            size = (maps.shape[1], self.output_size[1])
            maps = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
        return maps
