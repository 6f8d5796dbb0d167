"""How the trusty map and gamma turn mask probabilities into scores [TagCLIP section 3.5].

Shapes: C classes, h and w token grid, H and W pixels, r rows of them.
"""

from torch import Tensor

from ..inference import ScoreMap, Scores
from ..ops import mask_probabilities

TRUSTY_EVAL = ("none", "seen", "unseen", "both")


def check_weighting(weighting: str, *, has_trusty_map: bool) -> None:
    """Refuses an unknown weighting, and one that needs a trusty map where there is none.

    Raises:
        ValueError: one of the two.
    """
    if weighting not in TRUSTY_EVAL:
        raise ValueError(f"MODEL.TAGCLIP.TRUSTY_EVAL must be one of {TRUSTY_EVAL}, got {weighting!r}")
    if weighting != "none" and not has_trusty_map:
        raise ValueError(f"TRUSTY_EVAL {weighting!r} needs a trusty map; without TRUSTY_TOKEN it must be none")


def trusty_scores(
    mask_probs: Tensor, unseen_prob: Tensor | None, seen_mask: Tensor, *, gamma: float, weighting: str
) -> Tensor:
    """Scores that favour seen classes where the trusty map says seen, unseen ones where it says unseen.

    Args:
        mask_probs: (..., C, H, W), in [0, 1].
        unseen_prob: (..., 1, H, W), probability that a pixel belongs to no seen class; None = no trusty map.
        seen_mask: (C,) bool, True at seen classes.
        gamma: subtracted from seen classes before they are weighted (so a score may be slightly negative).
        weighting: none, or the classes that are weighted: seen, unseen, both.

    Returns:
        (..., C, H, W): (p - gamma) (1 - u) for seen classes, p u for unseen ones.

    Raises:
        ValueError: see `check_weighting`.
    """
    check_weighting(weighting, has_trusty_map=unseen_prob is not None)
    seen = seen_mask.to(mask_probs.dtype)[:, None, None]
    scores = mask_probs - gamma * seen
    if weighting in ("seen", "both"):
        scores = scores * (1 - seen * unseen_prob)
    if weighting in ("unseen", "both"):
        scores = scores * (seen + (1 - seen) * unseen_prob)
    return scores


class TrustyScores(ScoreMap):
    """`trusty_scores` of one image, and the trusty map behind them.

    Args:
        mask_logits: (C, h, w).
        trusty_logits: (1, h, w), logits of "a seen class is here"; None without a trusty token.
        seen_mask: (C,) bool, True at seen classes.
        size: (H, W) of the padded image, to which logits are upsampled bilinearly.
        crop: rows and columns of the image without padding.
        gamma, weighting: of `trusty_scores`.
    """

    def __init__(
        self,
        mask_logits: Tensor,
        trusty_logits: Tensor | None,
        seen_mask: Tensor,
        *,
        size: tuple[int, int],
        crop: tuple[int, int],
        gamma: float,
        weighting: str,
    ) -> None:
        super().__init__(crop, 2 * len(mask_logits), mask_logits.device)
        self.mask_logits = mask_logits.float()
        self.trusty_logits = None if trusty_logits is None else trusty_logits.float()
        self.seen_mask = seen_mask
        self.padded_size = tuple(size)
        self.gamma = gamma
        self.weighting = weighting

    def rows(self, start: int, stop: int) -> Scores:
        seen_prob = None if self.trusty_logits is None else self._probabilities(self.trusty_logits, start, stop)
        scores = trusty_scores(
            self._probabilities(self.mask_logits, start, stop),
            None if seen_prob is None else 1 - seen_prob,
            self.seen_mask,
            gamma=self.gamma,
            weighting="none" if seen_prob is None else self.weighting,
        )
        return Scores(scores, seen_prob)

    def _probabilities(self, logits: Tensor, start: int, stop: int) -> Tensor:
        return mask_probabilities(logits, self.padded_size, slice(start, stop))[:, :, : self.size[1]]
