import pytest
import torch
from torch.nn import functional as F

from mta_clip.modeling.ops.masks import mask_probabilities, mask_probabilities_by_row


def channels_last(logits):
    return logits.permute(1, 2, 0).contiguous().permute(2, 0, 1)


@pytest.mark.parametrize("layout", [torch.clone, channels_last])
@pytest.mark.parametrize("size", [(32, 48), (8, 12), (33, 47), (100, 13), (4, 6), (1, 1)])
def test_rows_equal_the_upsampled_masks(size, layout):
    logits = layout(4 * torch.randn(5, 8, 12))
    expected = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0].sigmoid()
    for form in (mask_probabilities, mask_probabilities_by_row):
        for start in range(0, size[0], 7):
            rows = slice(start, min(start + 7, size[0]))
            torch.testing.assert_close(form(logits, size, rows), expected[:, rows], atol=1e-5, rtol=0)
    assert logits.abs().max() > 1, "the logits must be left alone"
