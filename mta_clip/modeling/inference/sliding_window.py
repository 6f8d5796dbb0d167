"""Inference in overlapping windows, for images larger than those the network was trained on.

Shapes: C classes, H and W = an image before padding, h and w = a window of it, r rows.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.logger import log_first_n
from torch import Tensor

from .score_map import ScoreMap, Scores

BLENDS = ("uniform", "linear")
# images (3, h, w) of one size -> a score map of that size for each
Predict = Callable[[list[Tensor]], Sequence[ScoreMap]]


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis, ascending; the last window is moved back to end with the image.

    Args:
        length: length of the image, in pixels.
        size: length of a window, in pixels; a shorter image is one window.
        stride: distance between the starts of windows, in pixels.
    """
    count = max(length - size + stride - 1, 0) // stride + 1
    return [max(min(index * stride, length - size), 0) for index in range(count)]


class SlidingWindow:
    """Settings for cutting images into windows; all windows of an image have the same size.

    Args:
        size: (h, w) in pixels.
        stride: rows and columns between the starts of windows, at most `size`.
        batch: windows per forward pass, at least 1.
        blend: weights where windows overlap: uniform | linear (falling towards the edges of a window, where the
            network sees the least context).

    Raises:
        ValueError: a size, stride or batch that is not positive, a stride that would leave gaps, or an unknown blend.
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
        """Constructor arguments from TEST.SLIDING_WINDOW."""
        node = cfg.TEST.SLIDING_WINDOW
        return {"size": node.SIZE, "stride": node.STRIDE, "batch": node.BATCH, "blend": node.BLEND}


class WindowScores(ScoreMap):
    """The weighted mean of the scores of all windows; windows are predicted when their rows are read.

    Only the rows that one row of windows covers are in memory, not the whole image.

    Args:
        window: how to cut the image.
        predict: computes score maps of a list of windows.
        image: (3, H, W), normalised; windows are never larger than the image.
    """

    def __init__(self, window: SlidingWindow, predict: Predict, image: Tensor) -> None:
        size = image.shape[-2], image.shape[-1]
        self.predict, self.image, self.batch = predict, image, window.batch
        self.window_size = min(window.size[0], size[0]), min(window.size[1], size[1])
        if self.window_size != window.size:
            log_first_n(
                logging.WARNING,
                f"TEST.SLIDING_WINDOW.SIZE {window.size} is larger than an image of {size} (height, width): windows "
                "end at the edges of the image. Further images do not repeat this",
            )
        tops, lefts = (window_starts(*axis) for axis in zip(size, window.size, window.stride, strict=True))
        self.corners = list(product(tops, lefts))
        self.predicted = 0  # number of windows predicted so far
        self.accumulator = WindowAccumulator(size, self.window_size, (tops, lefts), window.blend)
        channels = self._predict_batch()  # the first windows show how many classes there are
        super().__init__(size, channels, image.device)

    @property
    def finished(self) -> int:
        """Number of rows, from the top, that no further window reaches."""
        return self.size[0] if self.predicted == len(self.corners) else self.corners[self.predicted][0]

    def rows(self, start: int, stop: int) -> Scores:
        """See ScoreMap. Frees the rows above `start`."""
        while self.finished < stop:
            self.accumulator.drop(start)
            self._predict_batch()
        return self.accumulator.take(start, stop)

    def _predict_batch(self) -> int:
        corners = self.corners[self.predicted : self.predicted + self.batch]
        height, width = self.window_size
        crops = [self.image[:, top : top + height, left : left + width] for top, left in corners]
        for (top, left), score_map in zip(corners, self.predict(crops), strict=True):
            for start, scores in score_map.blocks():
                self.accumulator.add(scores, top, left, start)
        self.predicted += len(corners)
        return len(scores.classes)


@dataclass
class _Strip:
    """Weighted sums for some rows of the image."""

    start: int
    stop: int
    sums: Scores | None = None  # (C, stop - start, W); None before the first window


class WindowAccumulator:
    """Weighted sums of window scores, for the rows that are in use.

    The upper and lower edges of the windows cut the image into strips. A strip takes memory from when the first window
    reaches it until it is dropped.

    Args:
        size: (H, W).
        window: (h, w).
        starts: first rows and first columns of the windows.
        blend: uniform | linear, see SlidingWindow.
    """

    def __init__(
        self, size: tuple[int, int], window: tuple[int, int], starts: tuple[list[int], list[int]], blend: str
    ) -> None:
        self.profiles = [_profile(length, blend) for length in window]
        # Window weights are products over the two axes, so the sums over all windows are products too.
        self.totals = [_summed(*axis) for axis in zip(self.profiles, starts, size, strict=True)]
        self.width = size[1]
        edges = sorted({edge for top in starts[0] for edge in (top, top + window[0])})
        self.strips = [_Strip(*rows) for rows in pairwise(edges)]

    def add(self, scores: Scores, top: int, left: int, start: int = 0) -> None:
        """Adds the scores of a window, or of some of its rows.

        Args:
            scores: (C, r, w).
            top: first row of the window in the image.
            left: first column of the window in the image.
            start: row of the window at which the scores begin.
        """
        rows, columns = (profile.to(scores.classes.device, non_blocking=True) for profile in self.profiles)
        weights = rows[start : start + scores.classes.shape[1], None] * columns
        first, stop = top + start, top + start + len(weights)
        for strip in self.strips:
            low, high = max(strip.start, first), min(strip.stop, stop)
            if low < high:
                into, added = slice(low - strip.start, high - strip.start), slice(low - first, high - first)
                self._sums(strip, scores).map(
                    lambda sums, part, into=into, added=added: sums[:, into, left : left + len(columns)].addcmul_(
                        part[:, added].float(), weights[added]
                    ),
                    scores,
                )

    def take(self, start: int, stop: int) -> Scores:
        """The weighted mean, (C, stop - start, W), of rows that are not dropped and that no further window reaches."""
        parts = [
            strip.sums.map(lambda sums, top=strip.start: sums[:, max(start - top, 0) : stop - top])
            for strip in self.strips
            if strip.sums is not None and strip.start < stop and start < strip.stop
        ]
        sums = parts[0].map(lambda *pieces: torch.cat(pieces, dim=1), *parts[1:])
        rows, columns = (total.to(sums.classes.device, non_blocking=True) for total in self.totals)
        return sums.map(lambda part: part / (rows[start:stop, None] * columns))

    def drop(self, start: int) -> None:
        """Frees the rows above row `start`."""
        self.strips = [strip for strip in self.strips if strip.stop > start]
        first = self.strips[0]
        if first.sums is not None and first.start < start:
            first.sums = first.sums.map(lambda sums: sums[:, start - first.start :].clone())
            first.start = start

    def _sums(self, strip: _Strip, scores: Scores) -> Scores:
        """Sums of a strip; they start as zeros, one for each map of `scores`."""
        if strip.sums is None:
            size = strip.stop - strip.start, self.width
            strip.sums = scores.map(lambda part: part.new_zeros((len(part), *size), dtype=torch.float32))
        return strip.sums


def build_sliding_window(cfg: CfgNode) -> SlidingWindow | None:
    """The sliding window of a config, or None if TEST.SLIDING_WINDOW.ENABLED is False."""
    return SlidingWindow(cfg) if cfg.TEST.SLIDING_WINDOW.ENABLED else None


def _profile(length: int, blend: str) -> Tensor:
    """Weights along one axis of a window, (length,), all positive."""
    if blend == "uniform":
        return torch.ones(length)
    position = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(position, length + 1 - position) / (length + 1)


def _summed(profile: Tensor, starts: list[int], length: int) -> Tensor:
    """Sum of the weights of all windows along one axis, (length,)."""
    total = torch.zeros(length)
    for start in starts:
        total[start : start + len(profile)] += profile
    return total
