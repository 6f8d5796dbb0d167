"""Assigns one mask query to each target mask at the lowest total cost (Hungarian algorithm; Mask2Former, DETR).

Shapes: L predictions (layers), B images, Q mask queries, C classes, K = C + 1 (last = no object), M target masks of an
image, P points, Dm mask embedding width, h and w a quarter of the padded input.
"""

import logging
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .point_sampling import PointSource, sample_labelled, sample_points, uniform_points
from .targets import Target

logger = logging.getLogger(__name__)

_LARGEST_COST = 1e10  # replaces what is not finite: such a query is assigned only if no other is left
_WARN_EVERY = 100  # affected batches per warning, after the first


class Match(NamedTuple):
    """Assignment of one image, by target, so that all predictions of a target lie side by side."""

    queries: Tensor  # (L, M) int64, the query assigned to each target; 0 where there is none
    matched: Tensor  # (L, M) bool, False for targets left over because M > Q


def cost_class(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Negative probability of each target's class.

    Args:
        class_logits: (..., K).
        labels: (M,) int64.

    Returns:
        (..., M) in [-1, 0].
    """
    return -class_logits.softmax(-1)[..., labels]


def cost_mask_ce(point_logits: Tensor, point_targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of every mask with every target, averaged over points.

    Args:
        point_logits: (N, P).
        point_targets: (M, P) in [0, 1].
        weights: (P,), 0 or 1: which points count; None = all.

    Returns:
        (N, M), at least 0.
    """
    # t * softplus(-x) + (1 - t) * softplus(x) = softplus(x) - t * x: one product instead of two.
    positive = F.softplus(point_logits)
    if weights is None:
        return (positive.sum(1, keepdim=True) - point_logits @ point_targets.t()) / point_logits.shape[1]
    total = (positive @ weights)[:, None] - point_logits @ (point_targets * weights).t()
    return total / weights.sum().clamp(min=1.0)


def cost_dice(point_logits: Tensor, point_targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Dice loss of every mask with every target: 1 - (2 sum s t + 1) / (sum s + sum t + 1).

    Args:
        point_logits: (N, P).
        point_targets: (M, P) in [0, 1].
        weights: (P,), 0 or 1: which points count; None = all.

    Returns:
        (N, M) in [0, 1).
    """
    probabilities = point_logits.sigmoid()
    if weights is not None:
        probabilities, point_targets = probabilities * weights, point_targets * weights
    overlap = probabilities @ point_targets.t()
    total = probabilities.sum(1)[:, None] + point_targets.sum(1)[None]
    return 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)


class HungarianMatcher:
    """Matches all predictions of a batch; costs in float32 on the device, assignment by scipy on the CPU.

    The mask features of an image are sampled once, at points that its L predictions share; their mask logits at the
    points are then one matrix product. Mask2Former draws points per prediction: the costs of each are distributed
    alike, and no (Q, h, w) map is ever made.

    Args:
        class_weight: of `cost_class` in the sum of costs.
        mask_weight: of `cost_mask_ce`.
        dice_weight: of `cost_dice`.
        num_points: P.
        exclude_ignored: points on ignored pixels do not count; otherwise they are background of every mask.
        draw_points: source of random points, called once per image.
    """

    def __init__(
        self,
        *,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        num_points: int,
        exclude_ignored: bool = False,
        draw_points: PointSource = uniform_points,
    ) -> None:
        if class_weight == 0 and mask_weight == 0 and dice_weight == 0:
            raise ValueError("all three matching costs have weight 0: nothing tells the queries apart")
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points
        self.exclude_ignored = exclude_ignored
        self.draw_points = draw_points
        self._num_bad_batches = 0

    @torch.no_grad()
    def __call__(
        self, class_logits: Tensor, mask_embed: Tensor, mask_features: Tensor, targets: list[Target]
    ) -> list[Match]:
        """Matches every prediction of every image.

        Args:
            class_logits: (L, B, Q, K).
            mask_embed: (L, B, Q, Dm).
            mask_features: (B, Dm, h, w).
            targets: per image.

        Returns:
            Per image, on the device of the logits.
        """
        device = class_logits.device
        with torch.autocast(device.type, enabled=False):
            costs = [
                self.cost_terms(class_logits[:, image], mask_embed[:, image], mask_features[image], target)
                for image, target in enumerate(targets)
            ]
            totals = [sum(terms.values()) for terms in costs]
        shapes = [total.shape for total in totals]
        # One transfer for the whole batch: each is a synchronisation with the device.
        flat = torch.cat([total.flatten() for total in totals]).cpu().double().numpy()
        if not np.isfinite(flat).all():
            self._warn_of_non_finite(costs)
            flat = np.nan_to_num(flat, nan=_LARGEST_COST, posinf=_LARGEST_COST, neginf=-_LARGEST_COST)
        ends = np.cumsum([shape.numel() for shape in shapes])[:-1]
        parts = np.split(flat, ends)
        return [_assign(part.reshape(shape), device) for part, shape in zip(parts, shapes, strict=True)]

    def cost_terms(
        self, class_logits: Tensor, mask_embed: Tensor, mask_features: Tensor, target: Target
    ) -> dict[str, Tensor]:
        """Weighted cost terms of one image, each (L, Q, M) float32; a single empty one for an image without targets.

        Args:
            class_logits: (L, Q, K).
            mask_embed: (L, Q, Dm).
            mask_features: (Dm, h, w).
            target: of the image.
        """
        shape = mask_embed.shape[:2]
        if not len(target["labels"]):
            return {"class": class_logits.new_zeros((*shape, 0), dtype=torch.float32)}
        points = self.draw_points(1, self.num_points, mask_embed.device)
        features = sample_points(mask_features[None].float(), points)[0]
        logits = mask_embed.flatten(0, 1).float() @ features
        masks = sample_points(target["masks"][None].float(), points)[0]
        weights = sample_labelled(target["ignored"], points[0]) if self.exclude_ignored else None
        return {
            "class": self.class_weight * cost_class(class_logits.float(), target["labels"]),
            "mask": self.mask_weight * cost_mask_ce(logits, masks, weights).unflatten(0, shape),
            "dice": self.dice_weight * cost_dice(logits, masks, weights).unflatten(0, shape),
        }

    def _warn_of_non_finite(self, costs: list[dict[str, Tensor]]) -> None:
        self._num_bad_batches += 1
        if self._num_bad_batches % _WARN_EVERY != 1:
            return
        found = []
        for image, terms in enumerate(costs):
            for name, cost in terms.items():
                layers = (~cost.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
                if layers:
                    found.append(f"{name} cost of image {image} in predictions {layers}")
        logger.warning(
            "Matching costs are not finite (%s); they count as very large and training goes on. Usual causes: a "
            "learning rate too high for the batch (1e-4 is for 16 images), float16 overflow (use "
            "SOLVER.AMP.DTYPE bfloat16), or images that are not finite. Batches affected so far: %d.",
            "; ".join(found),
            self._num_bad_batches,
        )


def _assign(costs: np.ndarray, device: torch.device) -> Match:
    """Solves the (L, Q, M) assignment problems of one image."""
    num_layers, _, num_targets = costs.shape
    queries = np.zeros((num_layers, num_targets), dtype=np.int64)
    matched = np.zeros((num_layers, num_targets), dtype=bool)
    for layer, cost in enumerate(costs):
        rows, columns = linear_sum_assignment(cost)
        queries[layer, columns] = rows
        matched[layer, columns] = True
    return Match(torch.from_numpy(queries).to(device), torch.from_numpy(matched).to(device))
