"""Rows of upsampled mask probabilities.

Shapes: N masks, h and w = logits, H and W = upsampled, r rows of it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .resizing import source_rows


def mask_probabilities(logits: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Rows of sigmoid(logits upsampled bilinearly, align_corners False).

    Args:
        logits: (N, h, w) float32.
        size: (H, W).
        rows: of the upsampled masks, with start and stop.

    Returns:
        (N, r, W), in 0..1.
    """
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0, :, rows].sigmoid()


def mask_probabilities_by_row(logits: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """`mask_probabilities`, computing the wanted rows only; fastest where `logits` has masks last in memory."""
    upper, lower, weight = (x[rows].to(logits.device) for x in source_rows(logits.shape[-2], size[0]))
    by_row = logits.permute(1, 2, 0)
    blended = torch.lerp(by_row.index_select(0, upper), by_row.index_select(0, lower), weight[:, None, None])
    # Every row an image with channels last: that is fastest, and images are what threads share out.
    images = blended.permute(0, 2, 1)[:, :, None]
    resized = F.interpolate(images, size=(1, size[1]), mode="bilinear", align_corners=False)
    return resized.sigmoid_()[:, :, 0].transpose(0, 1)
