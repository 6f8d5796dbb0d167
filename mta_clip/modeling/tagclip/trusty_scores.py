"""Scores from mask probabilities, the trusty map and gamma [TagCLIP's code].

Shapes: C classes, h and w = patch grid, H and W = an image (padding is cropped off), r of its rows.
"""

from typing import Any

from torch import Tensor

from ..inference import ScoreMap, Scores
from ..ops import mask_probabilities

TRUSTY_EVAL = ("none", "seen", "unseen", "both")


def check_weighting(weighting: str, *, has_trusty_map: bool) -> None:
    """Checks the weighting of scores.

    Args:
        weighting: one of TRUSTY_EVAL.
        has_trusty_map: whether the model predicts a trusty map.

    Raises:
        ValueError: unknown weighting, or one that needs a trusty map if there is none.
    """
    if weighting not in TRUSTY_EVAL:
        raise ValueError(f"MODEL.TAGCLIP.TRUSTY_EVAL must be one of {TRUSTY_EVAL}, got {weighting!r}")
    if weighting != "none" and not has_trusty_map:
        raise ValueError(
            f"MODEL.TAGCLIP.TRUSTY_EVAL {weighting!r} needs a trusty map; without TRUSTY_TOKEN it must be none"
        )


def trusty_scores(
    mask_probs: Tensor, unseen_prob: Tensor | None, seen_mask: Tensor, *, gamma: float, weighting: str
) -> Tensor:
    """Computes scores that favour seen or unseen classes, according to the trusty map.

    Args:
        mask_probs: (..., C, H, W), in [0, 1].
        unseen_prob: (..., 1, H, W), probability that a pixel belongs to no seen class; None = no trusty map.
        seen_mask: (C,) bool, True at seen classes.
        gamma: subtracted from the probabilities of seen classes before weighting, so scores can be as low as -gamma.
        weighting: classes whose scores are weighted: none | seen | unseen | both.

    Returns:
        (..., C, H, W). With p the mask and u the unseen probability: (p - gamma) (1 - u) for seen classes and p u for
        unseen ones where they are weighted; p - gamma and p where they are not.

    Raises:
        ValueError: see `check_weighting`.
    """
    check_weighting(weighting, has_trusty_map=unseen_prob is not None)
    seen = seen_mask.to(mask_probs.dtype)[:, None, None]
    scores = mask_probs - gamma * seen
    if unseen_prob is None:
        return scores
    if weighting in ("seen", "both"):
        scores = scores * (1 - seen * unseen_prob)
    if weighting in ("unseen", "both"):
        scores = scores * (seen + (1 - seen) * unseen_prob)
    return scores


class TrustyScores(ScoreMap):
    """`trusty_scores` of one image, and its trusty map.

    Args:
        mask_logits: (C, h, w).
        trusty_logits: (1, h, w), logits of "a seen class is here"; None without a trusty token.
        size: height and width of the padded image, in pixels; logits are upsampled to it bilinearly.
        crop: (H, W) of the image without padding.
        **options: further arguments of `trusty_scores`.
    """

    def __init__(
        self,
        mask_logits: Tensor,
        trusty_logits: Tensor | None,
        *,
        size: tuple[int, int],
        crop: tuple[int, int],
        **options: Any,
    ) -> None:
        super().__init__(crop, 2 * len(mask_logits), mask_logits.device)
        self.mask_logits = mask_logits.float()
        self.trusty_logits = None if trusty_logits is None else trusty_logits.float()
        self.padded_size = size
        self.options = options

    def rows(self, start: int, stop: int) -> Scores:
        """See ScoreMap."""

        def probabilities(logits: Tensor) -> Tensor:
            return mask_probabilities(logits, self.padded_size, slice(start, stop))[:, :, : self.size[1]]

        seen = None if self.trusty_logits is None else probabilities(self.trusty_logits)
        unseen = None if seen is None else 1 - seen
        return Scores(trusty_scores(probabilities(self.mask_logits), unseen, **self.options), seen)
