import pytest
import torch
from torch.nn import functional as F

from mta_clip.modeling.inference.label_map import resize_and_argmax


@pytest.mark.parametrize("size", [(7, 9), (20, 31), (5, 40), (40, 6), (13, 17)])
@pytest.mark.parametrize("strip_bytes", [1, 500, 1 << 26])
def test_equals_resizing_all_scores_first(size, strip_bytes):
    scores = torch.randn(6, 13, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(resize_and_argmax(scores, size, strip_bytes), expected)
