"""Points at which masks are compared, instead of whole maps (PointRend; Mask2Former, section 3.3).

Shapes: N maps, L predictions per map, P points, h and w the map. Points are (x, y) in [0, 1], (0, 0) being the outer
corner of the first pixel, so that maps of different resolution are sampled at the same place.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class PointSource(Protocol):
    """Where random points come from; replaceable, so that recorded draws can be replayed."""

    def __call__(self, num_sets: int, num_points: int, device: torch.device) -> Tensor:
        """Draws (num_sets, num_points, 2) float32 in [0, 1]."""


def uniform_points(num_sets: int, num_points: int, device: torch.device) -> Tensor:
    """Uniform points from torch's global generator; a `PointSource`."""
    return torch.rand((num_sets, num_points, 2), device=device)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points; zero outside.

    Args:
        maps: (N, L, h, w) float; the L maps of a set share its points.
        points: (N, P, 2).

    Returns:
        (N, L, P), differentiable in `maps`.
    """
    grid = 2.0 * points.unsqueeze(2) - 1.0
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(3)


def sample_labelled(ignored: Tensor, points: Tensor) -> Tensor:
    """Weight of points: 0 where any of the four pixels that a bilinear sample reads is ignored, else 1.

    Args:
        ignored: (H, W) bool.
        points: (..., 2).

    Returns:
        (...) float32.
    """
    touched = sample_points(ignored[None, None].float(), points.reshape(1, -1, 2))
    return (touched == 0).float().reshape(points.shape[:-1])


def uncertainty(logits: Tensor) -> Tensor:
    """How close mask logits are to the decision at 0: their negative magnitude (largest = most uncertain)."""
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
    """Chooses points where predicted masks are least certain, plus a share of uniform ones.

    `num_points * oversample_ratio` candidates are drawn; of these the `importance_sample_ratio * num_points` most
    uncertain are kept, the rest is drawn afresh. The L predictions of a map share candidates and fresh points: each
    prediction's points are distributed as if drawn for it alone, at an L-th of the random numbers.

    Args:
        logits: (N, L, h, w) mask logits.
        num_points: P.
        oversample_ratio: candidates per point, at least 1.
        importance_sample_ratio: share of uncertain points, 0..1.
        draw_points: called for the (N, candidates) and then the (N, fresh points).
        ignored: (H, W) bool; candidates on True pixels are chosen last.

    Returns:
        (N, L, P, 2).
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
