"""Inference in overlapping windows, for images larger than the network is trained on.

Shapes: B images, n windows, C classes, H and W = image, h and w = window.
"""

from collections.abc import Callable, Iterator
from itertools import product

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from torch import Tensor
from tqdm import tqdm

BLENDS = ("uniform", "linear")
_PROGRESS_FROM = 50  # windows per image from which on a progress bar is shown


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

    All windows of an image have the same size, so they go through the network in batches. Scores are summed into one
    (C, H, W) map per image; beside it only the windows of one batch exist.

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
    def __call__(self, predict: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Scores of whole images.

        Args:
            predict: window images (n, 3, h, w) -> scores (n, C, h, w).
            images: (B, 3, H, W); where an image is smaller than a window, so is its window.

        Returns:
            (B, C, H, W) float32, on the device of the scores.
        """
        scores = [self._scores(predict, image) for image in images]
        return torch.stack(scores) if len(scores) > 1 else scores[0][None]  # a stack of one would be a copy

    def _scores(self, predict: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        height, width = (min(window, length) for window, length in zip(self.size, image.shape[-2:], strict=True))
        starts = [window_starts(*axis) for axis in zip(image.shape[-2:], self.size, self.stride, strict=True)]
        weights = [_profile(length, self.blend) for length in (height, width)]
        total = None
        for corners in self._batches(list(product(*starts))):
            crops = torch.stack([image[:, top : top + height, left : left + width] for top, left in corners])
            # The scores of a batch have no name here, so they are freed before the next batch is predicted.
            total = self._add(total, predict(crops), corners, image.shape[-2:], weights)
        # The weight of a window is a product over the axes, and so is the sum over all windows.
        sums = [
            _summed(profile, positions, length).to(total.device)
            for profile, positions, length in zip(weights, starts, image.shape[-2:], strict=True)
        ]
        return total.div_(sums[0][:, None]).div_(sums[1])

    def _add(
        self,
        total: Tensor | None,
        scores: Tensor,
        corners: list[tuple[int, int]],
        size: tuple[int, int],
        weights: list[Tensor],
    ) -> Tensor:
        """Adds weighted window scores (n, C, h, w) to the sum (C, H, W), which the first batch creates."""
        if total is None:
            total = torch.zeros((scores.shape[1], *size), device=scores.device)
        height, width = scores.shape[-2:]
        weight = (weights[0][:, None] * weights[1]).to(total.device)
        for (top, left), window in zip(corners, scores, strict=True):
            part = total[:, top : top + height, left : left + width]
            part.add_(window if self.blend == "uniform" else window * weight)
        return total

    def _batches(self, corners: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        hidden = len(corners) < _PROGRESS_FROM or not comm.is_main_process()
        with tqdm(total=len(corners), unit="window", leave=False, disable=hidden) as progress:
            for start in range(0, len(corners), self.batch):
                batch = corners[start : start + self.batch]
                yield batch
                progress.update(len(batch))


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
