import pytest
import torch
from torch import nn

from mta_clip.engine.gradients import GradientClipper


@pytest.fixture
def parameters() -> list[nn.Parameter]:
    """Gradients (3, 0) and (0, 4): a norm of 5 together. A third parameter has none."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.tensor([3.0, 0.0])
    parameters[1].grad = torch.tensor([0.0, 4.0])
    return parameters


@pytest.mark.parametrize(
    ("clip_type", "clip_value", "expected"),
    [
        ("full_model", 1.0, ([0.6, 0.0], [0.0, 0.8])),
        ("full_model", 6.0, ([3.0, 0.0], [0.0, 4.0])),
        ("norm", 3.5, ([3.0, 0.0], [0.0, 3.5])),
        ("value", 2.0, ([2.0, 0.0], [0.0, 2.0])),
        (None, 1.0, ([3.0, 0.0], [0.0, 4.0])),
    ],
)
def test_clip_types(parameters, clip_type, clip_value, expected):
    norm = GradientClipper(clip_type=clip_type, clip_value=clip_value)(parameters)
    assert norm.item() == pytest.approx(5.0)  # of the unclipped gradients
    for parameter, gradient in zip(parameters, expected, strict=False):
        torch.testing.assert_close(parameter.grad, torch.tensor(gradient), rtol=1e-5, atol=1e-6)
    assert parameters[2].grad is None


def test_full_model_is_l2_whatever_norm_type_says(parameters):
    GradientClipper(clip_type="full_model", clip_value=1.0, norm_type=1.0)(parameters)
    assert parameters[0].grad[0].item() == pytest.approx(0.6, rel=1e-5)


def test_unknown_type_is_refused():
    with pytest.raises(ValueError, match="'global', expected one of"):
        GradientClipper(clip_type="global")
