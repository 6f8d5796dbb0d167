"""Class scores of an image, read a few rows at a time so that no (C, H, W) tensor has to exist.

Shapes: Q mask queries, C classes, h and w = mask logits, H and W = an image (padding is cropped off), r of its rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from ..ops import mask_probabilities, row_blocks


@dataclass
class Scores:
    """Scores of some or all rows of an image."""

    classes: Tensor  # (C, r, W), larger means more likely
    trusty: Tensor | None = None  # (1, r, W), probability that a pixel belongs to a seen class; TagCLIP only

    def map(self, function: Callable[..., Tensor], *others: "Scores") -> "Scores":
        """Applies a function to each tensor, together with the same tensors of other scores."""
        names = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        return Scores(**{name: function(*(getattr(scores, name) for scores in (self, *others))) for name in names})


class ScoreMap(ABC):
    """Scores of one image, computed as they are read.

    Args:
        size: (H, W) in pixels.
        channels: roughly how many numbers per pixel are needed to read a row; sets how many rows are read at a time.
        device: where the scores are computed.
    """

    def __init__(self, size: tuple[int, int], channels: int, device: torch.device) -> None:
        self.size = size
        self.channels = channels
        self.device = device

    @abstractmethod
    def rows(self, start: int, stop: int) -> Scores:
        """Scores (C, stop - start, W) of rows start..stop-1; callers read rows from top to bottom."""

    def blocks(self) -> Iterator[tuple[int, Scores]]:
        """Yields, from top to bottom, the first row of a block of rows and the scores (C, r, W) of the block."""
        for rows in row_blocks(self.size[0], 4 * self.channels * self.size[1], self.device):
            yield rows.start, self.rows(rows.start, rows.stop)

    def whole(self) -> Scores:
        """Scores (C, H, W) float32 of all rows."""
        result: Scores | None = None
        for start, scores in self.blocks():
            if result is None:
                result = scores.map(lambda part: part.new_empty((len(part), *self.size), dtype=torch.float32))
            result.map(partial(_copy_rows, start=start), scores)
        return result  # type: ignore[return-value]  # there is a first block


class WholeScores(ScoreMap):
    """Scores (C, H, W) that already exist as a whole."""

    def __init__(self, scores: Scores) -> None:
        channels, height, width = scores.classes.shape
        super().__init__((height, width), channels, scores.classes.device)
        self.scores = scores

    def rows(self, start: int, stop: int) -> Scores:
        """See ScoreMap. Returns views."""
        return self.scores.map(lambda part: part[:, start:stop])


class MaskScores(ScoreMap):
    """score[c] = sum over queries of p(c | query) * sigmoid(mask of the query) (Mask2Former, semantic inference).

    Scores are not normalised: they can exceed 1 and do not sum to 1 over classes.

    Args:
        class_probs: (Q, C), in [0, 1].
        mask_logits: (Q, h, w); the sums are computed in their dtype.
        size: height and width of the padded image, in pixels; masks are upsampled to it bilinearly.
        crop: (H, W) of the image without padding; None = `size`.

    Raises:
        ValueError: `crop` is larger than `size`.
    """

    def __init__(
        self, class_probs: Tensor, mask_logits: Tensor, size: tuple[int, int], crop: tuple[int, int] | None = None
    ) -> None:
        crop = crop or size
        if crop[0] > size[0] or crop[1] > size[1]:
            raise ValueError(
                f"the image {crop} (height, width) is larger than the padded image {size} that should contain it"
            )
        super().__init__(crop, sum(class_probs.shape), mask_logits.device)
        self.weights = class_probs.t().to(mask_logits.dtype)  # (C, Q)
        self.mask_logits = mask_logits.float()  # float32 even if the sums are not: CPUs resize it faster
        self.padded_size = tuple(size)

    def rows(self, start: int, stop: int) -> Scores:
        """See ScoreMap."""
        masks = mask_probabilities(self.mask_logits, self.padded_size, slice(start, stop))[:, :, : self.size[1]]
        scores = self.weights @ masks.flatten(1).to(self.weights.dtype)
        return Scores(scores.unflatten(1, masks.shape[1:]))


def _copy_rows(whole: Tensor, rows: Tensor, *, start: int) -> Tensor:
    whole[:, start : start + rows.shape[1]] = rows
    return whole
