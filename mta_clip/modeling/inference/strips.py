"""Maps that exist only a strip of rows at a time: resized, turned into labels, and put together.

Shapes: C classes, h and w = source map, H and W = output, r = rows of a strip.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .semantic import argmax_classes, source_rows

STRIP_BYTES = 1 << 22  # of resized scores at a time: they fit into a cache


class RowResizer:
    """Bilinear resizing (align_corners False) of (C, h, w) maps to (C, H, W), any output rows at a time.

    Args:
        size: (h, w).
        output_size: (H, W).
    """

    def __init__(self, size: tuple[int, int], output_size: tuple[int, int]) -> None:
        self.size = tuple(size)
        self.output_size = tuple(output_size)
        self.upper, self.lower, self.weight = source_rows(size[0], output_size[0])

    def source(self, rows: slice) -> slice:
        """The source rows that output rows are made from."""
        return slice(int(self.upper[rows.start]), int(self.lower[rows.stop - 1]) + 1)

    def ready(self, available: int) -> int:
        """How many output rows can be made from the first `available` source rows."""
        return int((self.lower < available).sum())

    def rows_per_strip(self, maps: Tensor, strip_bytes: int = STRIP_BYTES) -> int:
        """Output rows, at least one, that neither take more than `strip_bytes` nor are made from more.

        Args:
            maps: (C, ...), whose classes and type count.
        """
        columns = max(self.output_size[1], self.size[1] * self.size[0] // self.output_size[0])
        return max(1, strip_bytes // (len(maps) * columns * maps.element_size()))

    def __call__(self, maps: Tensor, rows: slice) -> Tensor:
        """Resized rows.

        Args:
            maps: (C, r, w), the rows `source(rows)` of the source.
            rows: of the output.

        Returns:
            (C, r', W), a view of `maps` where there is nothing to resize.
        """
        if self.size[0] != self.output_size[0]:
            upper, lower = (x[rows].to(maps.device) - self.upper[rows.start].item() for x in (self.upper, self.lower))
            maps = torch.lerp(maps[:, upper], maps[:, lower], self.weight[rows, None].to(maps))
        if self.size[1] != self.output_size[1]:
            size = (maps.shape[1], self.output_size[1])
            maps = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
        return maps


def resize_strips(
    strips: Iterable[Tensor], size: tuple[int, int], output_size: tuple[int, int], strip_bytes: int = STRIP_BYTES
) -> Iterator[Tensor]:
    """Resizes a map that comes in strips of any heights; of a strip that is used up, at most one row is kept.

    Args:
        strips: (C, r, w), from top to bottom; each is read before the next one is asked for.
        size: (h, w) of all strips together.
        output_size: (H, W).
        strip_bytes: bound on the memory of a resized strip and of what it is made from.

    Yields:
        (C, r, W), from top to bottom; possibly views of `strips`.
    """
    resizer = RowResizer(size, output_size)
    start = done = 0  # source rows before `kept`, output rows yielded
    kept = None
    for strip in strips:
        kept = strip[:, :0] if kept is None else kept
        available = start + kept.shape[1] + strip.shape[1]
        ready = resizer.ready(available)
        step = resizer.rows_per_strip(strip, strip_bytes)
        for first in range(done, ready, step):
            rows = slice(first, min(first + step, ready))
            yield resizer(_rows(kept, strip, resizer.source(rows), start), rows)
        done = ready
        following = min(int(resizer.upper[done]), available) if done < output_size[0] else available
        kept = _rows(kept, strip, slice(following, available), start).clone()  # the strip may be overwritten
        start = following


def _rows(kept: Tensor, strip: Tensor, rows: slice, start: int) -> Tensor:
    """Rows of two maps (C, r, w), one below the other and the upper one beginning at row `start`."""
    first, stop, border = rows.start - start, rows.stop - start, kept.shape[1]
    if first >= border:
        return strip[:, first - border : stop - border]
    return torch.cat([kept[:, first:stop], strip[:, : max(stop - border, 0)]], 1)


def join_strips(strips: Iterable[dict[str, Tensor]], size: tuple[int, int]) -> dict[str, Tensor]:
    """Whole maps from their strips, each of which is copied before the next one is asked for.

    Args:
        strips: named maps (..., r, W), from top to bottom.
        size: (H, W).

    Returns:
        Named maps (..., H, W).

    Raises:
        ValueError: the strips together have another height.
    """
    maps: dict[str, Tensor] = {}
    top = 0
    for strip in strips:
        for name, part in strip.items():
            if name not in maps:
                maps[name] = part.new_empty((*part.shape[:-2], *size))
            maps[name][..., top : top + part.shape[-2], :] = part
        top += part.shape[-2]
    if top != size[0]:
        raise ValueError(f"the strips of a map of {size[0]} rows have {top} rows")
    return maps


def prediction(scores: Tensor, label_maps_only: bool) -> dict[str, Tensor]:
    """What models return, of scores (C, r, W): those as `sem_seg`, or `labels` (r, W) int64."""
    return {"labels": argmax_classes(scores)} if label_maps_only else {"sem_seg": scores}
