import os
from unittest import mock

import pytest
import torch
from golden_files import compare, golden_params, load
from torch.nn import functional as F

from mta_clip.modeling.ops import deformable_sampling
from mta_clip.modeling.pixel_decoder import deformable_attention
from mta_clip.modeling.pixel_decoder.deformable_attention import (
    MSDeformAttn,
    multi_scale_deformable_attention,
    reference_points,
)


def grid_sample_reference(value, spatial_shapes, locations, weights):
    """The definition: level by level, sample by sample, with grid_sample."""
    batch, _, heads, dim = value.shape
    queries = locations.shape[1]
    output = value.new_zeros(batch, queries, heads, dim)
    levels = value.split([h * w for h, w in spatial_shapes], dim=1)
    for level, (h, w) in enumerate(spatial_shapes):
        for head in range(heads):
            image = levels[level][:, :, head].transpose(1, 2).reshape(batch, dim, h, w)
            grid = 2 * locations[:, :, head, level] - 1
            samples = F.grid_sample(image, grid, padding_mode="zeros", align_corners=False)  # (B, d, N, P)
            output[:, :, head] += torch.einsum("bdnp,bnp->bnd", samples, weights[:, :, head, level])
    return output.flatten(2)


def random_inputs(batch, heads, dim, queries, points, shapes):
    value = torch.randn(batch, sum(h * w for h, w in shapes), heads, dim)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2) * 1.8 - 0.4  # many outside
    weights = torch.rand(batch, queries, heads, len(shapes), points)
    return [x.requires_grad_() for x in (value, locations, weights)]


SIZES = [
    (1, 1, 1, 1, 1, [(1, 1)]),
    (2, 3, 4, 5, 2, [(2, 3), (5, 4)]),
    (3, 2, 8, 7, 4, [(1, 6), (7, 1), (3, 3)]),
]


@pytest.mark.parametrize("sizes", SIZES)
def test_equals_grid_sample_forward_and_backward(sizes):
    shapes = sizes[-1]
    value, locations, weights = random_inputs(*sizes)
    output = multi_scale_deformable_attention(value, shapes, locations, weights)
    expected = grid_sample_reference(value, shapes, locations, weights)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    gradient = torch.randn_like(output)
    actual = torch.autograd.grad(output, (value, locations, weights), gradient)
    wanted = torch.autograd.grad(expected, (value, locations, weights), gradient)
    for one, other in zip(actual, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_gradients_do_not_depend_on_which_inputs_need_one(frozen):
    inputs = random_inputs(2, 2, 4, 5, 3, [(3, 4), (2, 2)])
    shapes = [(3, 4), (2, 2)]
    everything = torch.autograd.grad(multi_scale_deformable_attention(inputs[0], shapes, *inputs[1:]).sum(), inputs)
    inputs[frozen] = inputs[frozen].detach()
    rest = [x for x in inputs if x.requires_grad]
    output = multi_scale_deformable_attention(inputs[0], shapes, *inputs[1:])
    for actual, index in zip(
        torch.autograd.grad(output.sum(), rest), (i for i in range(3) if i != frozen), strict=True
    ):
        torch.testing.assert_close(actual, everything[index])


def test_points_on_and_far_beyond_the_border():
    value = torch.arange(1.0, 5.0).view(1, 4, 1, 1)
    points = torch.tensor([[0.5, 0.5], [0.0, 0.0], [1.0, 1.0], [-0.25, 0.5], [1.25, 1.25], [-1e6, 0.5], [1e6, -1e6]])
    locations = points.view(1, -1, 1, 1, 1, 2)
    output = multi_scale_deformable_attention(value, [(2, 2)], locations, torch.ones(1, len(points), 1, 1, 1))
    torch.testing.assert_close(output.flatten(), torch.tensor([2.5, 0.25, 1.0, 0.0, 0.0, 0.0, 0.0]))


def test_a_point_past_the_last_corner_of_a_level_does_not_read_the_next():
    value = torch.cat([torch.zeros(1, 4, 1, 1), torch.full((1, 4, 1, 1), 100.0)], dim=1)
    locations = torch.tensor([1.2, 1.24, 1.25, 3.0]).view(1, 4, 1, 1, 1, 1).expand(1, 4, 1, 2, 1, 2)
    weights = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2, 1).expand(1, 4, 1, 2, 1)
    assert multi_scale_deformable_attention(value, [(2, 2), (2, 2)], locations, weights).eq(0).all()


def test_bilinear_weights_of_a_two_by_two_map():
    value = torch.arange(4.0).view(1, 4, 1, 1)
    locations = torch.tensor([[0.5, 0.5], [0.0, 0.0]]).view(1, 2, 1, 1, 1, 2)
    output = multi_scale_deformable_attention(value, [(2, 2)], locations, torch.ones(1, 2, 1, 1, 1))
    torch.testing.assert_close(output.flatten(), torch.tensor([1.5, 0.0]))


def test_levels_must_add_up():
    value, locations, weights = random_inputs(1, 1, 2, 3, 1, [(2, 3)])
    with pytest.raises(ValueError, match="do not add up to the 6 pixels"):
        multi_scale_deformable_attention(value, [(2, 2)], locations, weights)


def test_reference_points_are_pixel_centres():
    points = reference_points([(2, 2), (4, 4), (8, 8)])
    assert points.shape == (84, 2)
    expected = torch.tensor([[0.25, 0.25], [0.125, 0.125], [0.0625, 0.0625], [0.375, 0.125]])
    torch.testing.assert_close(points[[0, 4, 20, 5]], expected)
    torch.testing.assert_close(reference_points([(1, 4)])[:, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]))


class TestModule:
    shapes = ((2, 3), (4, 5))

    def attend(self, module, query, value):
        return module(query, value, module.reference_pixels(self.shapes), self.shapes)

    def test_equals_its_definition(self):
        module = MSDeformAttn(embed_dim=12, num_heads=3, num_levels=2, num_points=2)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        query, value = torch.randn(2, 26, 12), torch.randn(2, 26, 12)
        offsets = module.sampling_offsets(query).view(2, 26, 3, 2, 2, 2)
        sizes = torch.tensor([(w, h) for h, w in self.shapes])
        locations = reference_points(self.shapes)[:, None, None, None] + offsets / sizes[:, None]
        weights = module.attention_weights(query).view(2, 26, 3, 4).softmax(-1).view(2, 26, 3, 2, 2)
        projected = module.value_proj(value).view(2, 26, 3, 4)
        expected = module.output_proj(grid_sample_reference(projected, self.shapes, locations, weights))
        torch.testing.assert_close(self.attend(module, query, value), expected, atol=1e-5, rtol=1e-4)

    def test_at_initialisation_the_query_does_not_matter(self):
        module = MSDeformAttn(embed_dim=16, num_heads=8, num_levels=2, num_points=4)
        value = torch.randn(1, 26, 16)
        one, other = (self.attend(module, torch.randn(1, 26, 16), value) for _ in range(2))
        torch.testing.assert_close(one, other)

    def test_initial_offsets_point_in_eight_directions(self):
        bias = MSDeformAttn(embed_dim=16, num_heads=8, num_levels=3, num_points=4).sampling_offsets.bias
        directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
        expected = torch.tensor([[(x * i, y * i) for i in range(1, 5)] for x, y in directions], dtype=torch.float32)
        torch.testing.assert_close(bias.view(8, 3, 4, 2), expected[:, None].expand(-1, 3, -1, -1), atol=1e-5, rtol=0)

    def test_sampling_stays_in_float32_inside_autocast(self):
        module = MSDeformAttn(embed_dim=16, num_heads=2, num_levels=2, num_points=4)
        torch.nn.init.normal_(module.sampling_offsets.weight, std=1.0)
        query, value = torch.randn(1, 26, 16), torch.randn(1, 26, 16)
        # bfloat16 would round positions of a thousand pixels to 8: move the maps' content, and all samples, there
        far = [reference + 1000 for reference in module.reference_pixels(self.shapes)]
        seen = []
        with mock.patch.object(deformable_attention, "deformable_sampling", self.record(seen)):
            module(query, value, far, self.shapes)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = module(query, value, far, self.shapes)
        assert output.dtype == torch.bfloat16
        for exact, actual in zip(*seen, strict=True):
            assert actual.dtype == torch.float32
            torch.testing.assert_close(actual, exact, atol=0.1, rtol=0)

    @staticmethod
    def record(seen):
        def sampling(value, x, y, weights, sizes, form):
            seen.append((x, y, weights))
            return deformable_sampling(value, x, y, weights, sizes)

        return sampling

    def test_large_logits_stay_finite(self):
        module = MSDeformAttn(embed_dim=16, num_heads=2, num_levels=2, num_points=4)
        with torch.no_grad():
            module.attention_weights.bias.copy_(torch.linspace(-1e4, 1e4, 16))
        value = torch.randn(1, 26, 16, requires_grad=True)
        output = self.attend(module, value, value)
        output.sum().backward()
        assert output.isfinite().all()
        assert value.grad.isfinite().all()

    @pytest.mark.parametrize("sampling", deformable_sampling.forms)
    def test_every_form_of_sampling_gives_the_same(self, sampling):
        if sampling == "triton" and not os.environ.get("TRITON_INTERPRET"):
            pytest.skip("the kernel is for GPUs")
        value, outputs = torch.randn(1, 26, 16), []
        for form in (sampling, "grid_sample"):
            torch.manual_seed(0)
            module = MSDeformAttn(embed_dim=16, num_heads=2, num_levels=2, num_points=4, sampling=form)
            outputs.append(self.attend(module, value, value))
        torch.testing.assert_close(*outputs)

    def test_an_unknown_form_of_sampling_is_an_error(self):
        with pytest.raises(ValueError, match="SAMPLING is 'cuda', expected one of auto, triton, embedding_bag"):
            MSDeformAttn(sampling="cuda")

    def test_the_width_must_split_into_heads(self):
        with pytest.raises(ValueError, match="multiple"):
            MSDeformAttn(embed_dim=10, num_heads=4)


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("m2f_msda"))
def test_golden(path):
    _, arrays = load(path)
    names = ("value", "sampling_locations", "attention_weights")
    inputs = [arrays[name].requires_grad_() for name in names]
    output = multi_scale_deformable_attention(inputs[0], arrays["spatial_shapes"], *inputs[1:])
    compare("deformable attention", output, arrays["output"], atol=1e-6, rtol=1e-5)
    gradients = torch.autograd.grad(output, inputs, arrays["grad_output"])
    for name, gradient in zip(names, gradients, strict=True):
        compare(f"deformable attention, gradient of {name}", gradient, arrays[f"grad_{name}"], atol=1e-6, rtol=1e-5)
