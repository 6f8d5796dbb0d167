"""The class with the largest score.

Shapes: C classes.
"""

import torch
from torch import Tensor


def argmax_classes(scores: Tensor) -> Tensor:
    """Index of the first of the largest scores.

    Args:
        scores: (C, ...) floating point, without NaN; C below 2**15.

    Returns:
        (...) int64, in 0..C-1.
    """
    return scores.argmax(0)


def argmax_by_comparison(scores: Tensor) -> Tensor:
    """`argmax_classes` for CPUs, where PyTorch vectorises the maximum but not the search for its index."""
    dtype = scores.dtype if scores.dtype == torch.float32 else torch.int16  # bfloat16 counts up to 256 only
    best = torch.eq(scores, scores.amax(0), out=torch.empty_like(scores, dtype=dtype))  # 0 or 1
    rank = torch.arange(len(scores), 0, -1, dtype=dtype, device=scores.device)
    return len(scores) - best.mul_(rank.view(-1, *[1] * (scores.dim() - 1))).amax(0).long()
