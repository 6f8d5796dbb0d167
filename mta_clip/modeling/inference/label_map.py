"""Label maps at output size from score maps at network size, without the score maps at output size.

Shapes: C classes, h and w = score map, H and W = output.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .semantic import argmax_classes


def resize_and_argmax(scores: Tensor, size: tuple[int, int], strip_bytes: int = 1 << 26) -> Tensor:
    """Argmax over classes of bilinearly resized scores, in strips of output rows.

    The same labels as `interpolate(scores, size).argmax(0)` (bilinear, align_corners False), but the resized scores
    exist only one strip at a time: 150 classes at 4000 x 3000 would take 7.2 GB.

    Args:
        scores: (C, h, w) floats.
        size: (H, W), rows and columns of the output.
        strip_bytes: bound on the memory of one strip of resized scores.

    Returns:
        (H, W) int64 class indices.
    """
    num_classes, h, w = scores.shape
    height, width = size
    if (h, w) == (height, width):
        return argmax_classes(scores)
    rows_per_strip = max(1, strip_bytes // (num_classes * width * scores.element_size()))
    source = ((torch.arange(height, device=scores.device) + 0.5) * (h / height) - 0.5).clamp(min=0)
    upper = source.floor().long().clamp(max=h - 1)
    lower = (upper + 1).clamp(max=h - 1)
    weight = (source - upper).to(scores.dtype)[:, None]
    labels = torch.empty(height, width, dtype=torch.int64, device=scores.device)
    for start in range(0, height, rows_per_strip):
        rows = slice(start, start + rows_per_strip)
        strip = torch.lerp(scores[:, upper[rows]], scores[:, lower[rows]], weight[rows])
        strip = F.interpolate(strip[None], size=(strip.shape[1], width), mode="bilinear", align_corners=False)[0]
        labels[rows] = argmax_classes(strip)
    return labels
