"""The definition of deformable sampling, by hand; test_embedding_bag.py compares the fast form with it."""

import sys

import pytest
import torch

from mta_clip.modeling import ops
from mta_clip.modeling.ops import embedding_bag
from mta_clip.modeling.ops.sampling import deformable_sampling, deformable_sampling_by_triton


def sample(value, x, y, weights, sizes):
    """Samples of one query of one image."""
    x, y, weights = (torch.tensor(t, dtype=torch.float32).view(1, 1, -1) for t in (x, y, weights))
    return deformable_sampling(value, x, y, weights, sizes)[0, 0].tolist()


def test_pixel_centres_and_what_lies_between():
    value = torch.arange(1.0, 5.0).view(1, 4, 1, 1)  # 1 2 / 3 4
    for x, y, expected in [(0, 0, 1), (1, 0, 2), (0, 1, 3), (0.5, 0, 1.5), (0.5, 0.5, 2.5), (0.25, 1, 3.25)]:
        assert sample(value, [x], [y], [1], [(2, 2)]) == pytest.approx([expected])


def test_outside_is_zero_and_fades_in_over_a_pixel():
    value = torch.full((1, 4, 1, 1), 8.0)
    for x, y, expected in [(-1, 0, 0), (-0.5, 0, 4), (1.75, 1, 2), (-0.5, -0.5, 2), (1e6, 0, 0), (0, -1e6, 0)]:
        assert sample(value, [x], [y], [1], [(2, 2)]) == pytest.approx([expected])


def test_samples_are_ordered_by_head_level_and_point():
    value = torch.tensor([[[1.0], [10.0]], [[2.0], [20.0]], [[3.0], [30.0]]]).view(1, 3, 2, 1)
    weights = [1, 2, 4, 8, 0.1, 0.2, 0.4, 0.8]
    x = [0, 0, 0, 1, 0, 0, 0, 1]  # of the second level, which has two pixels, one point is on each
    assert sample(value, x, [0] * 8, weights, [(1, 1), (1, 2)]) == pytest.approx(
        [1 * 3 + 2 * 4 + 3 * 8, 10 * 0.3 + 20 * 0.4 + 30 * 0.8]
    )


def test_channels_of_a_head_stay_together_and_the_type_stays():
    value = torch.arange(6.0).view(1, 1, 2, 3).bfloat16()
    output = deformable_sampling(value, torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), torch.ones(1, 1, 2), [(1, 1)])
    assert output.dtype == torch.bfloat16 and output.flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_sizes_that_do_not_add_up_are_an_error():
    with pytest.raises(RuntimeError, match="split"):
        sample(torch.zeros(1, 5, 1, 1), [0], [0], [1], [(2, 2)])


def test_without_triton_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "mta_clip.modeling.ops.triton_sampling", raising=False)
    monkeypatch.delattr(ops, "triton_sampling", raising=False)
    with pytest.raises(ImportError, match=r"SAMPLING triton needs Triton.*set it to auto"):
        deformable_sampling_by_triton(*torch.zeros(4, 1, 1, 1), [(1, 1)])


def test_apples_gpus_use_the_definition():
    chosen = ops.deformable_sampling.chosen
    assert chosen("mps") is deformable_sampling and chosen("mps", "triton") is deformable_sampling_by_triton
    assert chosen("cpu") is chosen("cuda") is embedding_bag.deformable_sampling
