"""TagCLIP's losses: focal and Dice per class, and one for the trusty map [SegViT; ZegCLIP; TagCLIP's code].

Shapes: B images, C trained classes (the seen ones, or all), H and W = padded images.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..averages import mean_over_processes
from ..criterion.mask_losses import dice_loss

FOCAL_ALPHA = 0.25  # weight of positives; negatives get 1 - alpha
FOCAL_GAMMA = 2.0


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary focal loss, averaged over pixels [RetinaNet, ICCV 2017].

    Args:
        logits: (..., H, W) floats.
        targets: (..., H, W) floats, 0 or 1.

    Returns:
        (...) floats, at least 0.
    """
    probs = logits.sigmoid()
    miss = probs + targets - 2 * probs * targets  # 1 - probability of the correct value
    weight = (1 - FOCAL_ALPHA) + (2 * FOCAL_ALPHA - 1) * targets
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (weight * miss**FOCAL_GAMMA * entropy).flatten(-2).mean(-1)


def class_targets(labels: Tensor, num_classes: int) -> Tensor:
    """One binary map per class; pixels with any other label (void, padding, unseen) are negatives of every class.

    Args:
        labels: (B, H, W) int64; classes are 0..C-1.
        num_classes: C.

    Returns:
        (B, C, H, W) bool.
    """
    return labels[:, None] == torch.arange(num_classes, device=labels.device)[:, None, None]


class TrustyCriterion(nn.Module):
    """Weighted losses of mask logits and trusty logits.

    All terms are divided by the number of present classes, summed over the images of a batch and averaged over
    processes.

    Args:
        mask_weight: weight of the focal loss over all classes, present or not.
        dice_weight: weight of the Dice loss over the present classes.
        trusty_weight: weight of the loss of the trusty map.
        trusty_loss: focal (released code) | dice.

    Raises:
        ValueError: unknown `trusty_loss`.
    """

    def __init__(
        self,
        *,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
        trusty_weight: float = 10.0,
        trusty_loss: str = "focal",
    ):
        super().__init__()
        losses = {"focal": focal_loss, "dice": _map_dice_loss}
        if trusty_loss not in losses:
            raise ValueError(f"MODEL.TAGCLIP.TRUSTY_LOSS must be one of {sorted(losses)}, got {trusty_loss!r}")
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.trusty_weight = trusty_weight
        self.trusty_loss = losses[trusty_loss]

    def forward(
        self,
        mask_logits: Tensor,
        labels: Tensor,
        trusty_logits: Tensor | None = None,
        trusty_target: Tensor | None = None,
        num_present: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Computes the losses of one batch; they are finite even if it has no labelled pixel.

        Args:
            mask_logits: (B, C, H, W).
            labels: (B, H, W) int64; values outside 0..C-1 are negatives of every class.
            trusty_logits: (B, 1, H, W), or None without a trusty token.
            trusty_target: (B, H, W) bool; needed if `trusty_logits` are given.
            num_present: (), number of present classes, summed over images; default: that of `labels`.

        Returns:
            loss_mask, loss_dice and, with a trusty token, loss_trusty: weighted scalars.
        """
        mask_logits = mask_logits.float()
        targets = class_targets(labels, mask_logits.shape[1])
        present = targets.flatten(2).any(-1)
        targets = targets.to(mask_logits.dtype)
        normalizer = mean_over_processes(present.sum() if num_present is None else num_present).clamp(min=1)
        losses = {
            "loss_mask": self.mask_weight * focal_loss(mask_logits, targets).sum() / normalizer,
            "loss_dice": self.dice_weight * (_map_dice_loss(mask_logits, targets) * present).sum() / normalizer,
        }
        if trusty_logits is not None:
            target = trusty_target[:, None].to(mask_logits.dtype)  # type: ignore[index]  # with the logits
            loss = self.trusty_loss(trusty_logits.float(), target)
            losses["loss_trusty"] = self.trusty_weight * loss.sum() / normalizer
        return losses


def _map_dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss (...) of whole maps (..., H, W)."""
    return dice_loss(logits.flatten(-2), targets.flatten(-2))
