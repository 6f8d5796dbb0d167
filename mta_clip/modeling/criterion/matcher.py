"""Assigns one mask query to each target mask at the lowest total cost (Hungarian algorithm; Mask2Former, DETR).

Shapes: I supervised predictions, B images, Q mask queries, C classes, K = C + 1 (last = no object), M target masks of
an image, P points, Dm mask embedding width, h and w = a quarter of the padded input.
"""

import logging
import operator
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .point_sampling import PointSource, sample_labelled, sample_points, uniform_points
from .targets import Target

logger = logging.getLogger(__name__)

_LARGEST_COST = 1e10  # replaces costs that are not finite: such a query is assigned only if no other is left
_WARN_EVERY = 100  # the first of this many affected batches is reported


class Match(NamedTuple):
    """Assignments of one image, ordered by target; on the CPU, where they are made."""

    queries: Tensor  # (I, M) int64, the query assigned to each target; 0 if there is none
    matched: Tensor  # (I, M) bool, False for targets left without a query because M > Q


def cost_class(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Negative probability (..., M) of each target's class, from logits (..., K) and labels (M,) int64 in 0..C-1."""
    return -class_logits.softmax(-1)[..., labels.to(class_logits.device, non_blocking=True)]


def cost_mask_ce(point_logits: Tensor, point_targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy (I * Q, M) float32 of every predicted with every target mask, averaged over points.

    Args:
        point_logits: (I * Q, P) float32.
        point_targets: (M, P) float32 in [0, 1].
        weights: (P,) float32, 1 at points that count and 0 at others; None = all count.
    """
    # With logit x and target t, t * softplus(-x) + (1 - t) * softplus(x) = softplus(x) - t * x: one product, not two.
    positive = F.softplus(point_logits)
    if weights is None:
        return (positive.sum(1, keepdim=True) - point_logits @ point_targets.t()) / point_logits.shape[1]
    total = (positive @ weights)[:, None] - point_logits @ (point_targets * weights).t()
    return total / weights.sum().clamp(min=1.0)


def cost_dice(point_logits: Tensor, point_targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Dice loss of every predicted mask with every target mask; see `mask_losses.dice_loss` for the formula.

    Takes what `cost_mask_ce` takes and returns (I * Q, M) float32 in [0, 1).
    """
    probabilities = point_logits.sigmoid()
    if weights is not None:
        probabilities, point_targets = probabilities * weights, point_targets * weights
    overlap = probabilities @ point_targets.t()
    total = probabilities.sum(1)[:, None] + point_targets.sum(1)[None]
    return 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)


class HungarianMatcher:
    """Matches all predictions of a batch: costs in float32 on the device, assignment by scipy on the CPU.

    The mask features of an image are sampled once, at points that its I predictions share; the mask logits at these
    points are then one matrix product, and no (Q, h, w) map is made. Mask2Former draws points for each prediction; the
    costs of a prediction have the same distribution.

    Args:
        class_weight: of `cost_class`.
        mask_weight: of `cost_mask_ce`.
        dice_weight: of `cost_dice`.
        num_points: P.
        exclude_ignored: points on ignored pixels do not count; otherwise they are background of every mask.
        draw_points: source of random points, called once per image.

    Raises:
        ValueError: all three weights are 0.
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
            raise ValueError(
                "all three matching costs have weight 0, so all queries are equal; set one of "
                "MODEL.MASK_FORMER.CLASS_WEIGHT, MASK_WEIGHT and DICE_WEIGHT above 0"
            )
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
        """Matches every prediction of every image; gives one match per image.

        Args:
            class_logits: (I, B, Q, K).
            mask_embed: (I, B, Q, Dm).
            mask_features: (B, Dm, h, w).
            targets: one per image.
        """
        with torch.autocast(class_logits.device.type, enabled=False):
            costs = [
                self.cost_terms(class_logits[:, image], mask_embed[:, image], mask_features[image], target)
                for image, target in enumerate(targets)
            ]
            totals = [reduce(operator.add, terms.values()) for terms in costs]
        # One transfer for the whole batch, as each waits for the device; from here on, all is on the CPU.
        flat = torch.cat([total.flatten() for total in totals]).cpu().double().numpy()
        if not np.isfinite(flat).all():
            self._warn_of_non_finite(costs)
            flat = np.nan_to_num(flat, nan=_LARGEST_COST, posinf=_LARGEST_COST, neginf=-_LARGEST_COST)
        parts = np.split(flat, np.cumsum([total.numel() for total in totals])[:-1])
        return [_assign(part.reshape(total.shape)) for part, total in zip(parts, totals, strict=True)]

    def cost_terms(
        self, class_logits: Tensor, mask_embed: Tensor, mask_features: Tensor, target: Target
    ) -> dict[str, Tensor]:
        """The weighted cost terms of one image, from what `__call__` takes for it (the same shapes without B).

        Returns:
            `class`, `mask` and `dice`, each (I, Q, M) float32; only `class`, with M = 0, for an image without targets.
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
        found = [
            f"{name} cost of image {image} in predictions {layers}"
            for image, terms in enumerate(costs)
            for name, cost in terms.items()
            if (layers := (~cost.isfinite()).flatten(1).any(1).nonzero().flatten().tolist())
        ]
        logger.warning(
            "Matching costs are not finite (%s); they are treated as very large and training continues. Usual causes: "
            "a learning rate too high for the batch size (1e-4 is meant for 16 images), float16 overflow (use "
            "SOLVER.AMP.DTYPE bfloat16), or images that are not finite. Batches affected so far: %d.",
            "; ".join(found),
            self._num_bad_batches,
        )


def _assign(costs: np.ndarray) -> Match:
    """Solves the I assignment problems of one image, with costs (I, Q, M)."""
    from scipy.optimize import linear_sum_assignment  # takes 0.3 seconds, which only training needs

    num_layers, _, num_targets = costs.shape
    queries = np.zeros((num_layers, num_targets), dtype=np.int64)
    matched = np.zeros((num_layers, num_targets), dtype=bool)
    for layer, cost in enumerate(costs):
        rows, columns = linear_sum_assignment(cost)
        queries[layer, columns] = rows
        matched[layer, columns] = True
    return Match(torch.from_numpy(queries), torch.from_numpy(matched))
