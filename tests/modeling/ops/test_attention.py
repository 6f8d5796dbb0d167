import pytest
import torch

from mta_clip.modeling.ops.attention import (
    attention_with_bias,
    fused_attention,
    mask_bias,
    mask_bias_in_numbers,
    short_softmax,
    short_softmax_by_steps,
)


@pytest.mark.parametrize("biased", [True, False])
def test_fused_attention_equals_the_plain_form(biased):
    query, key, value = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4)
    bias = torch.zeros(2, 5, 7).masked_fill(torch.rand(2, 5, 7) < 0.5, -torch.inf) if biased else None
    if biased:
        bias[..., 0] = 0
    expected = attention_with_bias(query, key, value, bias)
    torch.testing.assert_close(fused_attention(query, key, value, bias), expected, atol=1e-6, rtol=1e-5)


def test_one_query_by_hand():
    query, key = torch.tensor([[[[2.0]]]]), torch.tensor([[[[0.0], [1.0]]]])
    value = torch.tensor([[[[0.0], [1.0]]]])
    attended = attention_with_bias(query, key, value, torch.tensor([[[1.0, 0.0]]]))
    assert attended.item() == pytest.approx(torch.tensor(2.0 - 1.0).sigmoid().item())


@pytest.mark.parametrize("form, outside", [(mask_bias, -torch.inf), (mask_bias_in_numbers, None)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mask_bias(dtype, form, outside):
    outside = torch.finfo(dtype).min if outside is None else outside
    logits = torch.tensor([[[1.0, -1.0, 0.0], [-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]]], dtype=dtype).requires_grad_()
    bias = form(logits)
    assert bias.dtype == dtype and not bias.requires_grad
    assert bias[0].tolist() == [[0, outside, 0], [0, 0, 0], [0, 0, 0]]  # an empty mask hides nothing


def test_short_softmax():
    logits = torch.cat([torch.randn(5, 12), torch.linspace(-1e4, 1e4, 12)[None]]).requires_grad_()
    expected, actual = short_softmax(logits), short_softmax_by_steps(logits)
    torch.testing.assert_close(actual, expected)
    gradient = torch.randn_like(expected)
    wanted, found = (torch.autograd.grad(result, logits, gradient)[0] for result in (expected, actual))
    torch.testing.assert_close(found, wanted)
