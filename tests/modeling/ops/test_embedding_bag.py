"""The bag form of deformable sampling against the plain one; against the definition, see pixel_decoder/."""

import pytest
import torch

from mta_clip.modeling.ops import embedding_bag
from mta_clip.modeling.ops.embedding_bag import deformable_sampling
from mta_clip.modeling.ops.sampling import deformable_sampling as plain_sampling

CASES = {  # images, heads, channels, queries, points, sizes
    "one pixel": (1, 1, 1, 1, 1, [(1, 1)]),
    "two levels": (2, 3, 4, 5, 2, [(2, 3), (5, 4)]),
    "three levels": (3, 2, 8, 7, 4, [(1, 6), (7, 1), (3, 3)]),
}


def random_inputs(images, heads, channels, queries, points, sizes):
    value = torch.randn(images, sum(h * w for h, w in sizes), heads, channels)
    samples = images, queries, heads * len(sizes) * points
    x, y = 10 * torch.rand(2, *samples) - 3  # many outside
    return [t.requires_grad_() for t in (value, x, y, torch.rand(samples))], sizes


@pytest.mark.parametrize("block", [1, 40, 1 << 17])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_plain_form_forward_and_backward(case, block, monkeypatch):
    monkeypatch.setitem(embedding_bag._BLOCK_SAMPLES, "cpu", block)
    inputs, sizes = random_inputs(*CASES[case])
    output, expected = deformable_sampling(*inputs, sizes), plain_sampling(*inputs, sizes)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    gradient = torch.randn_like(output)
    actual, wanted = (torch.autograd.grad(result, inputs, gradient) for result in (output, expected))
    for one, other in zip(actual, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frozen", range(4))
def test_gradients_do_not_depend_on_which_inputs_need_one(frozen):
    inputs, sizes = random_inputs(*CASES["two levels"])
    everything = torch.autograd.grad(deformable_sampling(*inputs, sizes).sum(), inputs)
    inputs[frozen] = inputs[frozen].detach()
    rest = [index for index in range(4) if index != frozen]
    gradients = torch.autograd.grad(deformable_sampling(*inputs, sizes).sum(), [inputs[index] for index in rest])
    for gradient, index in zip(gradients, rest, strict=True):
        torch.testing.assert_close(gradient, everything[index])


@pytest.mark.parametrize("form", [deformable_sampling, plain_sampling])
def test_values_keep_their_type_and_are_summed_in_float32(form):
    (value, *samples), sizes = random_inputs(*CASES["three levels"])
    half = value.detach().bfloat16()
    output = form(half, *samples, sizes)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, form(half.float(), *samples, sizes).bfloat16())
