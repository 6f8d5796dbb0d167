"""Rows of upsampled mask probabilities.

Shapes: Q masks (one per mask query; in TagCLIP one per class), h and w = the logits, H and W = the padded image that
they are upsampled to, r of its rows.
"""

from torch import Tensor
from torch.nn import functional as F

from .resizing import resize_rows, source_rows


def mask_probabilities(logits: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Rows of the sigmoid of bilinearly upsampled logits (align_corners False).

    Args:
        logits: (Q, h, w) float32.
        size: (H, W).
        rows: which rows of the upsampled masks; start and stop are set.

    Returns:
        (Q, r, W) float32, in [0, 1].
    """
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0, :, rows].sigmoid()


def mask_probabilities_by_row(logits: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """`mask_probabilities`, computed for these rows only; fastest if the masks of `logits` are last in memory."""
    upper, lower, weight = (x[rows] for x in source_rows(logits.shape[-2], size[0]))
    return resize_rows(logits, upper, lower, weight, size[1]).sigmoid_()
