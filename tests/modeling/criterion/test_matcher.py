import logging

import numpy as np
import pytest
import torch
from transformers.models.mask2former import modeling_mask2former

from mta_clip.modeling.criterion import HungarianMatcher, Target
from mta_clip.modeling.criterion.matcher import cost_class, cost_dice, cost_mask_ce


def make_matcher(**options):
    settings = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0, "num_points": 64} | options
    return HungarianMatcher(**settings)


def make_target(labels, size=(16, 24)):
    masks = torch.rand(len(labels), *size) > 0.6
    return Target(
        labels=torch.tensor(labels, dtype=torch.int64), masks=masks, ignored=torch.zeros(size, dtype=torch.bool)
    )


def make_predictions(layers=2, images=2, queries=6, classes=4, width=8):
    torch.manual_seed(1)
    return (
        torch.randn(layers, images, queries, classes + 1),
        torch.randn(layers, images, queries, width),
        torch.randn(images, width, 4, 6),
    )


@pytest.fixture
def warnings_of_matcher(caplog):
    with caplog.at_level(logging.WARNING, logger="mta_clip.modeling.criterion.matcher"):
        yield caplog


def test_costs_and_assignment_equal_those_of_transformers(monkeypatch):
    class_logits, mask_embed, mask_features = make_predictions(layers=1)
    targets = [make_target([1, 3, 0]), make_target([2, 0])]
    seen = []
    solve = modeling_mask2former.linear_sum_assignment
    monkeypatch.setattr(
        modeling_mask2former, "linear_sum_assignment", lambda cost: (seen.append(np.array(cost)), solve(cost))[1]
    )
    peer = modeling_mask2former.Mask2FormerHungarianMatcher(2.0, 5.0, 5.0, num_points=64)
    torch.manual_seed(5)
    assigned = peer(
        torch.einsum("bqd,bdhw->bqhw", mask_embed[0], mask_features),
        class_logits[0],
        [target["masks"].float() for target in targets],
        [target["labels"] for target in targets],
    )
    matcher = make_matcher()
    torch.manual_seed(5)
    for image, target in enumerate(targets):
        terms = matcher.cost_terms(class_logits[:, image], mask_embed[:, image], mask_features[image], target)
        np.testing.assert_allclose(sum(terms.values())[0].numpy(), seen[image], atol=1e-5)
    torch.manual_seed(5)
    matches = matcher(class_logits, mask_embed, mask_features, targets)
    for match, (queries, gts) in zip(matches, assigned, strict=True):
        assert torch.equal(match.queries[0][gts], queries) and match.matched.all()


def test_closed_form_costs():
    logits = torch.tensor([[2.0, -1.0, 0.5, -3.0]])
    masks = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert cost_mask_ce(logits, masks)[0].tolist() == pytest.approx([0.2407, 1.6157], abs=1e-4)
    assert cost_dice(logits, masks)[0].tolist() == pytest.approx([0.1687, 0.7134], abs=1e-4)
    uniform = cost_class(torch.zeros(1, 151), torch.tensor([3, 7]))
    assert uniform[0].tolist() == pytest.approx([-1 / 151] * 2)


def test_weights_of_points_equal_leaving_points_out():
    logits, masks = torch.randn(5, 12), torch.rand(3, 12)
    weights = (torch.arange(12) % 3 > 0).float()
    kept = weights.bool()
    for cost in (cost_mask_ce, cost_dice):
        assert torch.allclose(cost(logits, masks, weights), cost(logits[:, kept], masks[:, kept]), atol=1e-6)
    assert cost_mask_ce(logits, masks, torch.zeros(12)).abs().max() == 0


def test_finds_the_planted_assignment():
    """Queries that predict the targets exactly are found, in every layer, whatever their order."""
    target = make_target([0, 1, 2], size=(8, 8))
    flat = target["masks"].float()[:, None] * 20 - 10
    orders = [torch.tensor([4, 0, 2]), torch.tensor([1, 3, 0])]
    mask_embed = torch.zeros(2, 1, 5, 3)
    class_logits = torch.zeros(2, 1, 5, 4)
    for layer, order in enumerate(orders):
        mask_embed[layer, 0, order] = torch.eye(3)
        class_logits[layer, 0, order, torch.arange(3)] = 9.0
    (match,) = make_matcher()(class_logits, mask_embed, flat.transpose(0, 1), [target])
    assert torch.equal(match.queries, torch.stack(orders)) and match.matched.all()


def test_one_query_per_target_and_more_targets_than_queries():
    class_logits, mask_embed, mask_features = make_predictions(queries=3, images=1)
    (match,) = make_matcher()(class_logits, mask_embed, mask_features, [make_target([0, 1, 2, 3, 0])])
    assert match.matched.sum(1).tolist() == [3, 3]
    for layer in range(2):
        assert sorted(match.queries[layer][match.matched[layer]].tolist()) == [0, 1, 2]


def test_an_image_without_targets():
    class_logits, mask_embed, mask_features = make_predictions()
    matches = make_matcher()(class_logits, mask_embed, mask_features, [make_target([]), make_target([1])])
    assert matches[0].queries.shape == (2, 0) and matches[1].queries.shape == (2, 1)


@pytest.mark.parametrize(
    ("poisoned", "terms"), [("class", ["class cost"]), ("embed", ["mask cost", "dice cost"])], ids=["class", "mask"]
)
def test_nan_does_not_crash_and_is_named(poisoned, terms, warnings_of_matcher):
    class_logits, mask_embed, mask_features = make_predictions()
    (class_logits if poisoned == "class" else mask_embed)[1, 0, 2] = torch.nan
    targets = [make_target([0, 1]), make_target([2])]
    matches = make_matcher()(class_logits, mask_embed, mask_features, targets)
    assert all(match.matched.all() for match in matches)
    assert 2 not in matches[0].queries[1].tolist()  # queries that are finite go first
    (record,) = warnings_of_matcher.records
    message = record.getMessage()
    for term in terms:
        assert f"{term} of image 0 in predictions [1]" in message
    assert "image 1" not in message and "1e-4" in message and "bfloat16" in message


def test_everything_nan_or_infinite_still_assigns(warnings_of_matcher):
    class_logits, mask_embed, mask_features = make_predictions()
    for value in (torch.nan, torch.inf, -torch.inf):
        matches = make_matcher()(class_logits, mask_embed, mask_features * value, [make_target([0, 1])] * 2)
        assert all(match.matched.all() for match in matches)
        assert all(len(set(row.tolist())) == 2 for match in matches for row in match.queries)


def test_warns_once_in_a_while(warnings_of_matcher):
    class_logits, mask_embed, mask_features = make_predictions(layers=1, images=1)
    matcher = make_matcher(num_points=4)
    for _ in range(101):
        matcher(class_logits * torch.nan, mask_embed, mask_features, [make_target([0])])
    assert len(warnings_of_matcher.records) == 2
    assert "so far: 101" in warnings_of_matcher.records[1].getMessage()


def test_large_half_precision_inputs_do_not_overflow(warnings_of_matcher):
    class_logits, mask_embed, mask_features = make_predictions()
    large = (mask_features * 5000).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        make_matcher()(class_logits.half(), (mask_embed * 1000).half(), large, [make_target([0, 1])] * 2)
    assert not warnings_of_matcher.records


def test_points_on_ignored_pixels_do_not_count_if_excluded():
    class_logits, mask_embed, mask_features = make_predictions(images=1)
    target = make_target([0, 1])
    target["ignored"][:, 12:] = True
    costs = {}
    for exclude in (False, True):
        for scramble in (False, True):
            other = target["masks"].clone()
            other[:, :, 12:] ^= scramble
            changed = Target(labels=target["labels"], masks=other, ignored=target["ignored"])
            torch.manual_seed(3)
            matcher = make_matcher(exclude_ignored=exclude)
            terms = matcher.cost_terms(class_logits[:, 0], mask_embed[:, 0], mask_features[0], changed)
            costs[exclude, scramble] = terms["mask"] + terms["dice"]
    assert torch.equal(costs[True, False], costs[True, True])
    assert not torch.allclose(costs[False, False], costs[False, True])


def test_one_point_has_its_own_cost():
    logits, masks, alone = torch.randn(3, 12), torch.rand(2, 12), torch.arange(12) == 5
    cost = cost_mask_ce(logits, masks, alone.float())
    assert torch.allclose(cost, cost_mask_ce(logits[:, alone], masks[:, alone]), atol=1e-6)


def test_all_weights_zero_is_refused():
    with pytest.raises(ValueError, match="weight 0"):
        make_matcher(class_weight=0, mask_weight=0, dice_weight=0)
    for name in ("class_weight", "mask_weight", "dice_weight"):
        make_matcher(**{name: 0})


def test_costs_are_not_computed_in_half_precision(monkeypatch):
    matcher, seen = make_matcher(), []
    compute = matcher.cost_terms
    monkeypatch.setattr(
        matcher, "cost_terms", lambda *inputs: (seen.append(torch.is_autocast_enabled("cpu")), compute(*inputs))[1]
    )
    with torch.autocast("cpu", torch.bfloat16):
        matcher(*make_predictions(images=1), [make_target([1])])
    assert seen == [False]
