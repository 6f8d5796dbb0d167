"""Points at which masks are compared, instead of whole maps (PointRend; Mask2Former, section 3.3).

Shapes: M target masks of an image, I supervised predictions, P points, H and W = padded image, h and w = a map of it.
Points are (x, y) in [0, 1]; (0, 0) is the outer corner of the first pixel, so maps of different resolution are sampled
at the same place.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class PointSource(Protocol):
    """A source of random points; it can be replaced, for example to replay recorded points."""

    def __call__(self, num_sets: int, num_points: int, device: torch.device) -> Tensor:
        """Draws points (num_sets, num_points, 2) float32 in [0, 1], on `device`."""


def uniform_points(num_sets: int, num_points: int, device: torch.device) -> Tensor:
    """Draws uniform points from torch's global generator; see PointSource."""
    return torch.rand((num_sets, num_points, 2), device=device)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples (sets, maps, P) of maps, differentiable with respect to them; maps are zero outside.

    Args:
        maps: (sets, maps, h, w) floats; the maps of a set share its points.
        points: (sets, P, 2).
    """
    return F.grid_sample(maps, 2.0 * points.unsqueeze(2) - 1.0, align_corners=False).squeeze(3)


def sample_labelled(ignored: Tensor, points: Tensor) -> Tensor:
    """Weights (...) float32 of points (..., 2): 0 where a bilinear sample of `ignored` (H, W) reads a True, else 1."""
    touched = sample_points(ignored[None, None].float(), points.reshape(1, -1, 2))
    return (touched == 0).float().reshape(points.shape[:-1])


def uncertainty(logits: Tensor) -> Tensor:
    """The negative magnitude of mask logits: the closer to the decision threshold 0, the larger the uncertainty."""
    return -logits.abs()


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
    draw_points: PointSource = uniform_points,
    ignored: Tensor | None = None,
) -> Tensor:
    """Points (M, I, P, 2) float32 in [0, 1] where predicted masks are least certain, plus a share of uniform points.

    The I predictions of a mask share candidates and new points. The points of each prediction have the same
    distribution as if they were drawn for it alone, with 1 / I of the random numbers.

    Args:
        logits: (M, I, h, w) mask logits.
        num_points: P.
        oversample_ratio: candidates drawn per point, at least 1.
        importance_sample_ratio: share of points that are the most uncertain candidates, in [0, 1]; others are new.
        draw_points: source of random points; called for M sets of candidates, then for M sets of new points.
        ignored: (H, W) bool; candidates on True pixels are chosen last.
    """
    num_maps, num_predictions = logits.shape[:2]
    num_uncertain = int(importance_sample_ratio * num_points)
    candidates = draw_points(num_maps, int(num_points * oversample_ratio), logits.device)
    scores = uncertainty(sample_points(logits, candidates))
    if ignored is not None:
        scores = scores.masked_fill(sample_labelled(ignored, candidates).unsqueeze(1) == 0, -torch.inf)
    chosen = scores.topk(num_uncertain, dim=2, sorted=False).indices.flatten(1)
    points = candidates.gather(1, chosen.unsqueeze(2).expand(-1, -1, 2)).unflatten(1, (num_predictions, num_uncertain))
    fresh = draw_points(num_maps, num_points - num_uncertain, logits.device)
    return torch.cat([points, fresh.unsqueeze(1).expand(-1, num_predictions, -1, -1)], dim=2)
