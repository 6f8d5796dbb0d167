"""Point-sampled binary cross-entropy and dice loss of matched masks (Mask2Former, section 3.3).

Shapes: B images, Q mask queries, I supervised predictions, M target masks of an image, P points, Dm mask embedding
width, h and w = a quarter of the padded input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .matcher import Match
from .point_sampling import PointSource, sample_labelled, sample_points, uncertain_points, uniform_points
from .targets import Target


def sigmoid_ce_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy (...) float32 of masks, averaged over the points that count; exactly 0 where none does.

    Args:
        logits: (..., P) float32.
        targets: (..., P) float32 in [0, 1].
        weights: (..., P) float32, 1 at points that count and 0 at others; None = all count.
    """
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if weights is None:
        return losses.mean(-1)
    return (losses * weights).sum(-1) / weights.sum(-1).clamp(min=1.0)


def dice_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Dice loss: 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), with p = sigmoid(logits), t = targets, over points.

    Takes what `sigmoid_ce_loss` takes and returns (...) float32 in [0, 1).
    """
    probabilities = logits.sigmoid()
    if weights is not None:
        probabilities, targets = probabilities * weights, targets * weights
    overlap = (probabilities * targets).sum(-1)
    return 1.0 - (2.0 * overlap + 1.0) / (probabilities.sum(-1) + targets.sum(-1) + 1.0)


class PointMaskLoss:
    """Mask losses of all predictions at once, image by image.

    Only the logit maps of matched queries are computed, in one product per image for all I predictions.

    Args:
        num_points: P.
        oversample_ratio: see `uncertain_points`.
        importance_sample_ratio: see `uncertain_points`.
        draw_points: see `uncertain_points`.
        exclude_ignored: points on ignored pixels carry no loss; otherwise they are background of every mask.

    Raises:
        ValueError: a ratio is out of its range.
    """

    def __init__(
        self,
        *,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        exclude_ignored: bool,
        draw_points: PointSource = uniform_points,
    ) -> None:
        if oversample_ratio < 1 or not 0 <= importance_sample_ratio <= 1:
            raise ValueError(
                f"oversample_ratio must be at least 1 and importance_sample_ratio in 0..1, "
                f"got {oversample_ratio} and {importance_sample_ratio}"
            )
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.exclude_ignored = exclude_ignored
        self.draw_points = draw_points

    def __call__(
        self, mask_embed: Tensor, mask_features: Tensor, targets: list[Target], matches: list[Match]
    ) -> tuple[Tensor, Tensor]:
        """Sums the cross-entropy and the dice loss over the matched masks of the batch.

        Args:
            mask_embed: (I, B, Q, Dm) float32.
            mask_features: (B, Dm, h, w) float32.
            targets: one per image.
            matches: one per image.

        Returns:
            Cross-entropy and dice, each (I,) float32, not yet divided by a number of masks. Without any target they are
            exactly 0, but still depend on both inputs: DistributedDataParallel needs a gradient for every parameter.
        """
        # Sums of empty slices are zeros that belong to the graph, even if the values are not finite.
        zero = mask_embed[..., :0].sum((1, 2, 3)) + mask_features[:, :0].sum()
        total_ce, total_dice = zero, zero
        for embed, features, target, match in zip(
            mask_embed.unbind(1), mask_features.unbind(0), targets, matches, strict=True
        ):
            if len(target["labels"]):
                ce, dice = self._losses_of_image(embed, features, target, match)
                total_ce, total_dice = total_ce + ce, total_dice + dice
        return total_ce, total_dice

    def _losses_of_image(self, embed: Tensor, features: Tensor, target: Target, match: Match) -> tuple[Tensor, Tensor]:
        queries, matched = (x.t().to(embed.device, non_blocking=True) for x in match)
        layers = torch.arange(len(embed), device=embed.device)
        matched_embed = embed[layers, queries]  # (M, I, Dm)
        logits = torch.einsum("mld,dhw->mlhw", matched_embed, features)
        points = uncertain_points(
            logits,
            num_points=self.num_points,
            oversample_ratio=self.oversample_ratio,
            importance_sample_ratio=self.importance_sample_ratio,
            draw_points=self.draw_points,
            ignored=target["ignored"] if self.exclude_ignored else None,
        )
        num_masks, num_layers = logits.shape[:2]
        point_logits = sample_points(logits.flatten(0, 1).unsqueeze(1), points.flatten(0, 1)).view(points.shape[:3])
        with torch.no_grad():
            point_targets = sample_points(target["masks"].unsqueeze(1).float(), points.flatten(1, 2))
            point_targets = point_targets.view(num_masks, num_layers, self.num_points)
            weights = sample_labelled(target["ignored"], points) if self.exclude_ignored else None
        ce = sigmoid_ce_loss(point_logits, point_targets, weights) * matched
        dice = dice_loss(point_logits, point_targets, weights) * matched
        return ce.sum(0), dice.sum(0)
