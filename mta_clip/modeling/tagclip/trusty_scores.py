"""How the trusty map and gamma turn mask probabilities into scores [TagCLIP section 3.5].

Shapes: B images, C classes, H and W pixels.
"""

from torch import Tensor

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
        mask_probs: (B, C, H, W), in [0, 1].
        unseen_prob: (B, 1, H, W), probability that a pixel belongs to no seen class; None = no trusty map.
        seen_mask: (C,) bool, True at seen classes.
        gamma: subtracted from seen classes before they are weighted (so a score may be slightly negative).
        weighting: none, or the classes that are weighted: seen, unseen, both.

    Returns:
        (B, C, H, W): (p - gamma) (1 - u) for seen classes, p u for unseen ones.

    Raises:
        ValueError: see `check_weighting`.
    """
    check_weighting(weighting, has_trusty_map=unseen_prob is not None)
    seen = seen_mask.to(mask_probs.dtype).view(1, -1, 1, 1)
    scores = mask_probs - gamma * seen
    if weighting in ("seen", "both"):
        scores = scores * (1 - seen * unseen_prob)
    if weighting in ("unseen", "both"):
        scores = scores * (seen + (1 - seen) * unseen_prob)
    return scores
