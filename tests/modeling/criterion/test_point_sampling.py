import torch
import torch.nn.functional as F

from mta_clip.modeling.criterion.point_sampling import (
    sample_labelled,
    sample_points,
    uncertain_points,
    uncertainty,
    uniform_points,
)


def test_pixel_centres_and_borders():
    maps = torch.arange(6.0).reshape(1, 1, 2, 3)
    centres = torch.tensor([[0.5 / 3, 0.25], [1.5 / 3, 0.25], [2.5 / 3, 0.75], [0.5, 0.5], [0.0, 0.25]])
    values = sample_points(maps + 1, centres[None])[0, 0]
    assert torch.allclose(values, torch.tensor([1.0, 2.0, 6.0, 3.5, 0.5]), atol=1e-6)  # outside is 0


def test_sampling_commutes_with_the_mask_product():
    features, embed, points = torch.randn(2, 8, 5, 7), torch.randn(2, 3, 8), torch.rand(2, 20, 2)
    of_logits = sample_points(torch.einsum("bqd,bdhw->bqhw", embed, features), points)
    assert torch.allclose(of_logits, embed @ sample_points(features, points), atol=1e-5)


def test_uniform_points_follow_the_global_seed():
    points = uniform_points(3, 1000, torch.device("cpu"))
    assert points.shape == (3, 1000, 2) and points.min() >= 0 and points.max() < 1
    torch.manual_seed(0)
    assert torch.equal(points, torch.rand(3, 1000, 2))


def test_sample_labelled_rejects_any_touch_of_an_ignored_pixel():
    ignored = torch.zeros(4, 4, dtype=torch.bool)
    ignored[:, 2:] = True
    points = torch.tensor([[0.1, 0.5], [0.37, 0.5], [0.39, 0.5], [0.9, 0.5]])  # x = 0.375 is the centre of pixel 1
    assert sample_labelled(ignored, points).tolist() == [1, 1, 0, 0]
    assert sample_labelled(ignored, points.reshape(2, 2, 2)).shape == (2, 2)


def draws(logits, **options):
    settings = {"num_points": 40, "oversample_ratio": 3.0, "importance_sample_ratio": 0.75} | options
    return uncertain_points(logits, **settings)


def test_most_uncertain_candidates_are_kept():
    logits = torch.randn(2, 3, 6, 6)
    recorded = []

    def record(num_sets, num_points, device):
        recorded.append(torch.rand(num_sets, num_points, 2))
        return recorded[-1]

    points = draws(logits, draw_points=record)
    candidates, fresh = recorded
    assert points.shape == (2, 3, 40, 2) and candidates.shape == (2, 120, 2) and fresh.shape == (2, 10, 2)
    assert torch.equal(points[:, :, 30:], fresh[:, None].expand(-1, 3, -1, -1))
    for row in range(2):
        for column in range(3):
            one = logits[row, column][None, None]
            grid = 2 * candidates[row][None, None] - 1
            values = F.grid_sample(one, grid, align_corners=False).flatten()
            expected = candidates[row][values.abs().argsort()[:30]]
            assert sorted(points[row, column, :30].tolist()) == sorted(expected.tolist())


def test_ignored_candidates_come_last():
    ignored = torch.zeros(8, 8, dtype=torch.bool)
    ignored[:, 4:] = True
    logits = torch.zeros(1, 1, 8, 8)
    logits[..., :4] = 5.0  # least certain where nothing is labelled
    points = draws(logits, ignored=ignored, importance_sample_ratio=1.0, oversample_ratio=6.0)
    assert sample_labelled(ignored, points).all()
    assert not sample_labelled(ignored, draws(logits, importance_sample_ratio=1.0)).any()


def test_uncertainty_is_highest_at_zero():
    assert uncertainty(torch.tensor([-3.0, 0.0, 2.0])).tolist() == [-3.0, 0.0, -2.0]


def test_no_gradient_and_all_uniform():
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    points = draws(logits, importance_sample_ratio=0.0)
    assert points.shape == (1, 1, 40, 2) and not points.requires_grad
