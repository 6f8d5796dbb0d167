import pytest
import torch

from mta_clip.modeling.tagclip.trusty_scores import trusty_scores

SEEN = torch.tensor([True, False])


def score(p_seen: float, p_unseen: float, unseen_prob: float, weighting: str = "both") -> list[float]:
    probs = torch.tensor([p_seen, p_unseen]).view(1, 2, 1, 1)
    trusty = torch.full((1, 1, 1, 1), unseen_prob)
    return trusty_scores(probs, trusty, SEEN, gamma=0.1, weighting=weighting).flatten().tolist()


def test_worked_examples():
    assert score(0.8, 0.6, 0.3) == pytest.approx([0.49, 0.18])  # seen wins
    assert score(0.8, 0.6, 0.7) == pytest.approx([0.21, 0.42])  # unseen wins
    assert score(0.05, 0.6, 0.3)[0] == pytest.approx(-0.035)  # gamma comes off before the weight


def test_variants():
    assert score(0.8, 0.6, 0.3, "none") == pytest.approx([0.7, 0.6])
    assert score(0.8, 0.6, 0.3, "seen") == pytest.approx([0.49, 0.6])
    assert score(0.8, 0.6, 0.3, "unseen") == pytest.approx([0.7, 0.18])


def test_weighting_needs_a_trusty_map():
    probs = torch.rand(1, 2, 3, 3)
    plain = trusty_scores(probs, None, SEEN, gamma=0.0, weighting="none")
    assert torch.equal(plain, probs)
    with pytest.raises(ValueError, match="must be none"):
        trusty_scores(probs, None, SEEN, gamma=0.0, weighting="both")
    with pytest.raises(ValueError, match="'all'"):
        trusty_scores(probs, None, SEEN, gamma=0.0, weighting="all")
