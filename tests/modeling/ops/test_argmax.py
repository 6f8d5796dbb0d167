import pytest
import torch

from mta_clip.modeling.ops.argmax import argmax_by_comparison, argmax_classes


@pytest.mark.parametrize("num_classes", [1, 2, 255, 256, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_equals(num_classes, dtype):
    scores = torch.randint(20, (num_classes, 7, 5)).to(dtype)
    assert torch.equal(argmax_by_comparison(scores), argmax_classes(scores))
    assert argmax_by_comparison(torch.zeros(num_classes, 3, dtype=dtype)).tolist() == [0, 0, 0]


def test_neighbouring_numbers_are_told_apart():
    scores = torch.tensor([[1e-30, -2.0], [1e-30, -1.0], [0.0, -1.5]])
    scores[1, 0] = scores[0, 0].nextafter(torch.tensor(1.0))
    for form in (argmax_by_comparison, argmax_classes):
        assert form(scores).tolist() == [1, 1]
