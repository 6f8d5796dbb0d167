"""Inference in overlapping windows, for images larger than the network is trained on.

Shapes: B images, n windows, C classes, H and W = image, h and w = window.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import product

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from .progress import progress_bar

BLENDS = ("uniform", "linear")
Scores = Tensor | Iterable[tuple[slice, Tensor]]  # (C, h, w), or blocks: rows and their (C, r, w)


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis; the last windows are pushed back inside the image.

    Args:
        length: of the image, in pixels.
        size: of a window; an image shorter than that is one window.
        stride: between windows.
    """
    count = max(length - size + stride - 1, 0) // stride + 1
    return [max(min(index * stride, length - size), 0) for index in range(count)]


class SlidingWindow:
    """Averages the scores of overlapping windows.

    All windows of an image have the same size, so they go through the network in batches. Scores are summed in a band
    as high as a window, (C, h, W), which rows leave when no further window reaches them. Beside it only the windows of
    one batch exist.

    Args:
        size: (h, w) in pixels.
        stride: (rows, columns) between windows, at most `size`.
        batch: windows per forward pass.
        blend: weights at overlaps: uniform | linear (falling towards the rim of a window, which sees least context).

    Raises:
        ValueError: a size, stride or batch that is not positive, a stride that leaves gaps, or an unknown blend.
    """

    @configurable
    def __init__(
        self, *, size: tuple[int, int], stride: tuple[int, int], batch: int = 4, blend: str = "uniform"
    ) -> None:
        if len(size) != 2 or len(stride) != 2 or min(*size, *stride, batch) < 1:
            raise ValueError(
                f"window size and stride must be two positive numbers of pixels and the batch at least 1, got "
                f"TEST.SLIDING_WINDOW.SIZE {size}, STRIDE {stride}, BATCH {batch}"
            )
        if stride[0] > size[0] or stride[1] > size[1]:
            raise ValueError(
                f"TEST.SLIDING_WINDOW.STRIDE {stride} is larger than SIZE {size}: pixels between windows would have "
                "no score"
            )
        if blend not in BLENDS:
            raise ValueError(f"TEST.SLIDING_WINDOW.BLEND is {blend!r}, expected one of {BLENDS}")
        self.size = tuple(size)
        self.stride = tuple(stride)
        self.batch = batch
        self.blend = blend

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.TEST.SLIDING_WINDOW
        return {"size": node.SIZE, "stride": node.STRIDE, "batch": node.BATCH, "blend": node.BLEND}

    @torch.no_grad()
    def __call__(self, predict: Callable[[Tensor], Iterable[Scores]], images: Tensor) -> Tensor:
        """Scores of whole images.

        Args:
            predict: window images (n, 3, h, w) -> scores of each, whole or in blocks of rows.
            images: (B, 3, H, W); where an image is smaller than a window, so is its window.

        Returns:
            (B, C, H, W) float32, on the device of the scores.
        """
        scores = None
        for index, image in enumerate(images):
            top = 0
            for strip in self.strips(predict, image):
                if scores is None:
                    scores = strip.new_empty((len(images), len(strip), *images.shape[-2:]))
                scores[index, :, top : top + strip.shape[1]] = strip
                top += strip.shape[1]
        return scores

    @torch.no_grad()
    def strips(self, predict: Callable[[Tensor], Iterable[Scores]], image: Tensor) -> Iterator[Tensor]:
        """Scores of one image from top to bottom, as soon as no further window reaches them.

        Args:
            predict: see `__call__`.
            image: (3, H, W).

        Yields:
            (C, r, W) float32, r at most h; overwritten when the next one is asked for.
        """
        height, width = (min(window, length) for window, length in zip(self.size, image.shape[-2:], strict=True))
        tops, lefts = (window_starts(*axis) for axis in zip(image.shape[-2:], self.size, self.stride, strict=True))
        band = _Band((height, width), (tops, lefts), image.shape[-2:], self.blend)
        corners = list(product(tops, lefts))
        with progress_bar(len(corners), "window") as progress:
            for start in range(0, len(corners), self.batch):
                batch = corners[start : start + self.batch]
                crops = torch.stack([image[:, top : top + height, left : left + width] for top, left in batch])
                # What was predicted has no name here, so it is freed before the next batch.
                yield from band.add(predict(crops), batch)
                progress.update(len(batch))
        yield band.finish(image.shape[-2])


class _Band:
    """Weighted sums of window scores, of the rows that one row of windows covers.

    Args:
        window: (h, w).
        starts: first rows and first columns of the windows.
        size: (H, W).
        blend: weights at overlaps.
    """

    def __init__(
        self, window: tuple[int, int], starts: tuple[list[int], list[int]], size: tuple[int, int], blend: str
    ) -> None:
        self.profiles = [_profile(length, blend) for length in window]
        # The weight of a window is a product over the axes, and so is the sum over all windows.
        self.totals = [_summed(*axis) for axis in zip(self.profiles, starts, size, strict=True)]
        self.weight = None if blend == "uniform" else self.profiles[0][:, None] * self.profiles[1]
        self.sums: Tensor | None = None  # (C, h, W)
        self.top = 0  # row of the image that the band begins with

    def add(self, windows: Iterable[Scores], corners: list[tuple[int, int]]) -> Iterator[Tensor]:
        """Adds windows in the order of their rows; yields what is finished before each further row."""
        for (top, left), window in zip(corners, windows, strict=True):
            if top > self.top:
                yield self.finish(top)
                self._move(top)
            for rows, scores in [(slice(None), window)] if isinstance(window, Tensor) else window:
                if self.sums is None:
                    self._begin(scores)
                part = self.sums[:, rows, left : left + scores.shape[-1]]
                part.add_(scores if self.weight is None else scores * self.weight[rows])

    def _begin(self, scores: Tensor) -> None:
        height, width = len(self.profiles[0]), len(self.totals[1])
        self.sums = torch.zeros((len(scores), height, width), device=scores.device)
        self.totals = [total.to(scores.device) for total in self.totals]
        self.weight = None if self.weight is None else self.weight.to(scores.device)

    def finish(self, stop: int) -> Tensor:
        """Scores of the rows above row `stop` of the image, a view of the band."""
        strip = self.sums[:, : stop - self.top]
        return strip.div_(self.totals[0][self.top : stop, None]).div_(self.totals[1])

    def _move(self, top: int) -> None:
        """Begins at another row, in place: a second band would double the memory."""
        shift, self.top = top - self.top, top
        kept = self.sums.shape[1] - shift
        for start in range(0, kept, shift):  # in pieces that do not overlap where they go
            stop = min(start + shift, kept)
            self.sums[:, start:stop] = self.sums[:, start + shift : stop + shift]
        self.sums[:, kept:] = 0


def build_sliding_window(cfg: CfgNode) -> SlidingWindow | None:
    """The sliding window of a config; None if TEST.SLIDING_WINDOW.ENABLED is False."""
    return SlidingWindow(cfg) if cfg.TEST.SLIDING_WINDOW.ENABLED else None


def _profile(length: int, blend: str) -> Tensor:
    """Weights along one axis of a window, positive: (length,)."""
    if blend == "uniform":
        return torch.ones(length)
    position = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(position, length + 1 - position) / (length + 1)


def _summed(profile: Tensor, starts: list[int], length: int) -> Tensor:
    """Sum of the weights of all windows along one axis: (length,)."""
    total = torch.zeros(length)
    for start in starts:
        total[start : start + len(profile)] += profile
    return total
