import pytest
import torch
import torch.nn.functional as F

from mta_clip.modeling.criterion import Match, targets_from_sem_seg
from mta_clip.modeling.criterion.mask_losses import PointMaskLoss, dice_loss, sigmoid_ce_loss


def make_loss(**options):
    settings = {"num_points": 32, "oversample_ratio": 3.0, "importance_sample_ratio": 0.75, "exclude_ignored": False}
    return PointMaskLoss(**(settings | options))


def test_closed_form_numbers():
    zeros, ones = torch.zeros(1, 12544), torch.ones(1, 12544)
    assert sigmoid_ce_loss(zeros, ones).item() == pytest.approx(0.693147, abs=1e-6)
    assert dice_loss(zeros, ones).item() == pytest.approx(0.333316, abs=1e-6)
    assert dice_loss(zeros, zeros).item() == pytest.approx(0.999841, abs=1e-6)
    assert dice_loss(ones * 50, ones).item() == pytest.approx(0, abs=1e-6)
    assert sigmoid_ce_loss(ones * 50, ones).item() == pytest.approx(0, abs=1e-6)
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0]).expand(2, -1)
    masks = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert dice_loss(logits, masks).tolist() == pytest.approx([0.1687, 0.7134], abs=1e-4)
    assert sigmoid_ce_loss(logits, masks).tolist() == pytest.approx([0.2407, 1.6157], abs=1e-4)


def test_weights_equal_leaving_points_out():
    logits, masks = torch.randn(3, 12), torch.rand(3, 12)
    weights = (torch.arange(12) % 4 > 0).float().expand(3, -1)
    kept = weights[0].bool()
    for loss in (sigmoid_ce_loss, dice_loss):
        assert torch.allclose(loss(logits, masks, weights), loss(logits[:, kept], masks[:, kept]), atol=1e-6)
        assert loss(logits, masks, torch.zeros(3, 12)).abs().max() == 0


def test_one_point_has_its_own_loss():
    logits, masks = torch.randn(3, 12), torch.rand(3, 12)
    alone = torch.zeros(3, 12)
    alone[:, 5] = 1
    expected = F.binary_cross_entropy_with_logits(logits[:, 5], masks[:, 5], reduction="none")
    assert torch.allclose(sigmoid_ce_loss(logits, masks, alone), expected)


def test_ratios_at_their_limits():
    for ratios in ((1.0, 0.0), (1.0, 1.0), (3.0, 0.0)):
        make_loss(oversample_ratio=ratios[0], importance_sample_ratio=ratios[1])
    for ratios in ((0.99, 0.5), (3.0, -0.01), (3.0, 1.01)):
        with pytest.raises(ValueError, match="oversample_ratio must be at least 1"):
            make_loss(oversample_ratio=ratios[0], importance_sample_ratio=ratios[1])


def make_batch():
    sem_segs = [torch.randint(4, (16, 24)), torch.full((16, 24), 255), torch.randint(2, (16, 20))]
    targets = targets_from_sem_seg(sem_segs, (16, 24), 255, 4)
    mask_embed = torch.randn(2, 3, 6, 8, requires_grad=True)
    mask_features = torch.randn(3, 8, 4, 6, requires_grad=True)
    matches = []
    for target in targets:
        count = len(target["labels"])
        queries = torch.stack([torch.randperm(6)[:count] for _ in range(2)])
        matches.append(Match(queries, torch.ones(2, count, dtype=torch.bool)))
    return mask_embed, mask_features, targets, matches


def test_equals_a_slow_loop_over_full_maps():
    """Uniform points alone, so that each pair of layer and target can be recomputed from full (B, Q, h, w) maps."""
    mask_embed, mask_features, targets, matches = make_batch()
    drawn = []

    def record(num_sets, num_points, device):
        drawn.append(torch.rand(num_sets, num_points, 2))
        return drawn[-1]

    sums = make_loss(importance_sample_ratio=0.0, draw_points=record)(mask_embed, mask_features, targets, matches)
    fresh = [points for points in drawn if points.shape[1] == 32]
    full = torch.einsum("lbqd,bdhw->lbqhw", mask_embed, mask_features)
    for layer in range(2):
        expected = [0.0, 0.0]
        for (image, match), points in zip([(0, matches[0]), (2, matches[2])], fresh, strict=True):
            for row, query in enumerate(match.queries[layer]):
                grid = 2 * points[row][None, None] - 1
                logits = F.grid_sample(full[layer, image, query][None, None], grid, align_corners=False).flatten()
                mask = targets[image]["masks"][row][None, None].float()
                truth = F.grid_sample(mask, grid, align_corners=False).flatten()
                expected[0] += F.binary_cross_entropy_with_logits(logits, truth)
                s = logits.sigmoid()
                expected[1] += 1 - (2 * (s * truth).sum() + 1) / (s.sum() + truth.sum() + 1)
        for ours, slow in zip(sums, expected, strict=True):
            assert torch.allclose(ours[layer], slow, atol=1e-4)


def test_gradients_reach_matched_queries_only():
    mask_embed, mask_features, targets, matches = make_batch()
    ce, dice = make_loss()(mask_embed, mask_features, targets, matches)
    (ce.sum() + dice.sum()).backward()
    for layer in range(2):
        for image, match in enumerate(matches):
            moved = mask_embed.grad[layer, image].abs().sum(1) > 0
            assert sorted(moved.nonzero().flatten().tolist()) == sorted(match.queries[layer].tolist())
    assert (mask_features.grad[[0, 2]] != 0).any() and (mask_features.grad[1] == 0).all()


def test_targets_left_over_carry_no_loss():
    mask_embed, mask_features, targets, matches = make_batch()
    nobody = [Match(match.queries, torch.zeros_like(match.matched)) for match in matches]
    ce, dice = make_loss()(mask_embed, mask_features, targets, nobody)
    assert ce.tolist() == [0, 0] and dice.tolist() == [0, 0]


def test_a_batch_without_targets_is_exactly_zero_and_has_a_graph():
    mask_embed, mask_features, targets, matches = make_batch()
    empty, none = [targets[1]] * 3, [matches[1]] * 3
    ce, dice = make_loss()(mask_embed, mask_features, empty, none)
    assert ce.tolist() == [0, 0] and dice.tolist() == [0, 0]
    (ce.sum() + dice.sum()).backward()
    assert (mask_embed.grad == 0).all() and (mask_features.grad == 0).all()


def test_padding_is_background_or_left_out():
    """A mask of the left half that is predicted everywhere costs nothing where the right half does not count."""
    sem_seg = torch.zeros(8, 8, dtype=torch.int64)
    sem_seg[:, 4:] = 255
    targets = targets_from_sem_seg([sem_seg], (8, 8), 255, 1)
    embed, features = torch.ones(1, 1, 1, 1), torch.full((1, 1, 8, 8), 30.0)
    match = Match(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool))
    options = {"num_points": 2000, "importance_sample_ratio": 0.0}
    # Points near the rim see zeros beyond it: clamp them to pixel centres.
    options["draw_points"] = lambda sets, points, device: torch.rand(sets, points, 2) * 7 / 8 + 1 / 16
    ce, dice = make_loss(exclude_ignored=True, **options)(embed, features, targets, [match])
    assert ce.item() == pytest.approx(0, abs=1e-5) and dice.item() == pytest.approx(0, abs=1e-5)
    ce, dice = make_loss(exclude_ignored=False, **options)(embed, features, targets, [match])
    assert ce.item() == pytest.approx(15, abs=1.5) and dice.item() == pytest.approx(1 / 3, abs=0.05)


def test_bad_ratios_are_refused():
    with pytest.raises(ValueError, match=r"0\.5"):
        make_loss(oversample_ratio=0.5)
    with pytest.raises(ValueError, match=r"1\.5"):
        make_loss(importance_sample_ratio=1.5)
