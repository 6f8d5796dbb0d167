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


def resize_rows(maps: Tensor, upper: Tensor, lower: Tensor, weight: Tensor, width: int) -> Tensor:
    """Blends pairs of rows, then resizes along the columns (align_corners False).

    Args:
        maps: (C, h, w).
        upper: (r,) int64, rows of `maps`, from `source_rows`.
        lower: (r,) int64, likewise.
        weight: (r,), weight of the lower row, in [0, 1].
        width: W.

    Returns:
        (C, r, W) in the dtype of `maps`, with C last in memory: the fastest layout to read and to write.
    """
    by_row = maps.permute(1, 2, 0)
    upper, lower = (rows.to(maps.device, non_blocking=True) for rows in (upper, lower))
    weight = weight.to(maps.device, maps.dtype, non_blocking=True)
    blended = torch.lerp(by_row.index_select(0, upper), by_row.index_select(0, lower), weight[:, None, None])
    # Each row becomes an image with channels last; threads split the work by image.
    images = blended.permute(0, 2, 1)[:, :, None]
    return F.interpolate(images, size=(1, width), mode="bilinear", align_corners=False)[:, :, 0].transpose(0, 1)


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
        if self.size == self.output_size:
            return maps
        first = self.upper[rows.start]
        return resize_rows(
            maps, self.upper[rows] - first, self.lower[rows] - first, self.weight[rows], self.output_size[1]
        )
