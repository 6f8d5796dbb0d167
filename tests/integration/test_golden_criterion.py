"""The criterion against the official implementations' numbers, their random draws replayed."""

from collections import deque

import pytest
import torch
from golden_files import compare, golden_params, load

from mta_clip.modeling.criterion import (
    HungarianMatcher,
    MaskTextCriterion,
    Match,
    SimilarityLoss,
    Target,
    targets_from_sem_seg,
)
from mta_clip.modeling.criterion.mask_losses import dice_loss, sigmoid_ce_loss
from mta_clip.modeling.criterion.matcher import cost_dice, cost_mask_ce
from mta_clip.modeling.criterion.point_sampling import uncertain_points, uncertainty
from mta_clip.modeling.criterion.similarity_loss import similarity_loss
from mta_clip.modeling.outputs import HeadOutput, LayerPrediction

pytestmark = pytest.mark.golden


class Replay:
    """A point source that hands out recorded points in order, in sets of the number of points asked for."""

    def __init__(self, recorded: list[torch.Tensor]) -> None:
        self.sets = [deque(points) for points in recorded]

    def __call__(self, num_sets, num_points, device):
        queue = next(sets for sets in self.sets if sets and sets[0].shape[0] == num_points)
        return torch.stack([queue.popleft() for _ in range(num_sets)])


def as_output(class_logits, mask_logits, similarity=None):
    """A head output whose mask features are the given mask logits: embeddings are the unit vectors."""
    eye = torch.eye(class_logits.shape[1]).expand(len(class_logits), -1, -1)
    return HeadOutput(mask_logits, [LayerPrediction(class_logits, eye, similarity)])


def target_order(matches: list[Match]) -> torch.Tensor:
    """Rows of the official draws (image, then matched query) in our order (image, then target, matched or not)."""
    order, start = [], 0
    for match in matches:
        matched = match.matched[0]
        rows = torch.zeros(len(matched), dtype=torch.int64)  # what is drawn for targets left over does not matter
        rows[matched] = start + match.queries[0, matched].argsort().argsort()
        order.append(rows)
        start += int(matched.sum())
    return torch.cat(order)


def replay_loss(targets, matches, matching, candidates, fresh):
    order = target_order(matches)
    present = [points for points, target in zip(matching, targets, strict=True) if len(target["labels"])]
    return Replay([torch.cat(present), candidates[order], fresh[order]])


def reference_matches(queries: list[torch.Tensor], num_targets: list[int], gts: list[torch.Tensor]) -> list[Match]:
    matches = []
    for query, gt, count in zip(queries, gts, num_targets, strict=True):
        by_target = torch.zeros(1, count, dtype=torch.int64)
        matched = torch.zeros(1, count, dtype=torch.bool)
        by_target[0, gt], matched[0, gt] = query, True
        matches.append(Match(by_target, matched))
    return matches


@pytest.mark.parametrize("path", golden_params("mta_sim_loss"))
def test_similarity_loss_and_gradients(path):
    config, arrays = load(path)
    labels, class_weight = arrays["labels"], arrays["class_weight"]
    weights = class_weight[labels]
    for number, kind in enumerate(("AllPos", "SeparateNeg", "MixNeg")):
        scores = arrays["queries_score"].clone().requires_grad_()
        loss = (similarity_loss(scores, labels, kind) * weights).sum() / weights.sum()
        loss = loss * config["loss_queries_wt"]
        compare(f"L_sim, {kind}", loss, arrays[f"loss_type{number}"], atol=1e-5, rtol=1e-6)
        compare(
            f"gradient of L_sim, {kind}", torch.autograd.grad(loss, scores)[0], arrays[f"grad_type{number}"], atol=1e-6
        )


@pytest.mark.parametrize("path", golden_params("mta_full_loss"))
def test_mta_clip_losses_and_gradients(path):
    config, arrays = load(path)
    size, count = tuple(config["image_size"]), config["batch"]
    targets = targets_from_sem_seg(list(arrays["gt_sem_seg"]), size, config["ignore_index"], config["num_classes"])
    for image, target in enumerate(targets):
        assert target["labels"].tolist() == arrays[f"gt_labels_{image}"].tolist()  # ours are on the CPU
    gts = [row[row > 0] - 1 for row in arrays["matched_gt_plus1"]]
    queries = [row.nonzero().flatten() for row in arrays["matched_gt_plus1"]]
    expected = reference_matches(queries, [len(target["labels"]) for target in targets], gts)
    draws = [arrays[f"rand_{index}"] for index in range(count + 2)]
    source = replay_loss(targets, expected, draws[:count], draws[count], draws[count + 1])
    criterion = MaskTextCriterion(
        num_classes=config["num_classes"],
        class_weight=config["loss_cls_weight"],
        mask_weight=config["loss_mask_weight"],
        dice_weight=config["loss_dice_weight"],
        similarity_weight=config["loss_queries_wt"],
        no_object_weight=config["none_weight"],
        num_points=config["num_points"],
        oversample_ratio=config["oversample_ratio"],
        importance_sample_ratio=config["importance_sample_ratio"],
        normalizer="class_weight_sum",
        similarity_loss=SimilarityLoss(kind=("AllPos", "SeparateNeg", "MixNeg")[config["query_loss_type"]]),
        draw_points=source,
    )
    inputs = {name: arrays[name].clone().requires_grad_() for name in ("cls_scores", "mask_preds", "queries_score")}
    output = as_output(inputs["cls_scores"], inputs["mask_preds"], inputs["queries_score"])
    losses = criterion(output, targets)
    assert list(losses) == ["loss_ce", "loss_mask", "loss_dice", "loss_sim"]
    for ours, theirs in {"ce": "cls", "mask": "mask", "dice": "dice", "sim": "queries"}.items():
        reference = arrays[f"loss_{theirs}"].reshape(())
        compare(f"MTA-CLIP loss_{ours}", losses[f"loss_{ours}"], reference, atol=1e-5, rtol=1e-6)
    sum(losses.values()).backward()
    for name, value in inputs.items():
        compare(f"gradient of the losses, {name}", value.grad, arrays[f"grad_sum/{name}"], atol=1e-6)


@pytest.mark.parametrize("path", golden_params("mta_full_loss"))
def test_points_of_the_mask_losses(path):
    config, arrays = load(path)
    rows = arrays["matched_gt_plus1"].nonzero()
    logits = arrays["mask_preds"][rows[:, 0], rows[:, 1]].unsqueeze(1)
    points = uncertain_points(
        logits,
        num_points=config["num_points"],
        oversample_ratio=config["oversample_ratio"],
        importance_sample_ratio=config["importance_sample_ratio"],
        draw_points=Replay([arrays[f"rand_{config['batch']}"], arrays[f"rand_{config['batch'] + 1}"]]),
    )[:, 0]
    num_uncertain = int(config["num_points"] * config["importance_sample_ratio"])
    for part in (slice(None, num_uncertain), slice(num_uncertain, None)):
        for ours, theirs in zip(points[:, part], arrays["loss_points"][:, part], strict=True):
            assert sorted(ours.tolist()) == sorted(theirs.tolist())


@pytest.mark.parametrize("path", golden_params("mta_full_loss"))
def test_labels_of_matched_queries(path):
    config, arrays = load(path)
    targets = targets_from_sem_seg(list(arrays["gt_sem_seg"]), tuple(config["image_size"]), config["ignore_index"])
    matcher = HungarianMatcher(
        class_weight=config["cost_class"],
        mask_weight=config["cost_mask"],
        dice_weight=config["cost_dice"],
        num_points=config["num_points"],
        draw_points=Replay([torch.cat([arrays[f"rand_{i}"] for i, t in enumerate(targets) if len(t["labels"])])]),
    )
    output = as_output(arrays["cls_scores"], arrays["mask_preds"])
    final = output.final
    matches = matcher(final.class_logits[None], final.mask_embed[None], output.mask_features, targets)
    labels = torch.full_like(arrays["labels"], config["num_classes"])
    for row, target, match in zip(labels, targets, matches, strict=True):
        row[match.queries[0][match.matched[0]]] = target["labels"].to(row)[match.matched[0]]
    assert torch.equal(labels, arrays["labels"])


@pytest.mark.parametrize("path", golden_params("m2f"))
def test_mask2former_components(path):
    _, arrays = load(path)
    part = {name.removeprefix("comp/"): value for name, value in arrays.items() if name.startswith("comp/")}
    logits = part["point_logits"].clone().requires_grad_()
    compare("cost_mask_ce", cost_mask_ce(logits, part["point_labels"]), part["cost_mask_ce"], atol=1e-5)
    compare("cost_dice", cost_dice(logits, part["point_labels"]), part["cost_dice"], atol=1e-5)
    for name, function in (("dice_loss", dice_loss), ("sigmoid_ce_loss", sigmoid_ce_loss)):
        loss = function(logits, part["pair_labels"]).sum() / part["num_masks"]
        compare(name, loss, part[name], atol=1e-5)
        compare(f"gradient of {name}", torch.autograd.grad(loss, logits)[0], part[f"{name}_grad"], atol=1e-6)
    compare("uncertainty", uncertainty(part["uncertainty_in"]), part["uncertainty_out"], atol=0)


@pytest.mark.parametrize("path", golden_params("m2f"))
def test_mask2former_criterion(path):
    config, arrays = load(path)
    config = config["criterion"]
    part = {name.removeprefix("crit/"): value for name, value in arrays.items() if name.startswith("crit/")}
    images = range(config["batch"])
    nothing_ignored = torch.zeros(config["image_size"], dtype=torch.bool)
    targets = [
        Target(labels=part[f"gt_labels_{b}"].cpu(), masks=part[f"gt_masks_{b}"].bool(), ignored=nothing_ignored)
        for b in images
    ]
    expected = reference_matches(
        [part[f"match_query_{b}"] for b in images],
        [len(target["labels"]) for target in targets],
        [part[f"match_gt_{b}"] for b in images],
    )
    matching = [part[f"rand_match_{b}"] for b in images]
    source = replay_loss(targets, expected, matching, part["rand_loss_oversampled"], part["rand_loss_random"])
    criterion = MaskTextCriterion(
        num_classes=config["num_classes"],
        no_object_weight=config["eos_coef"],
        num_points=config["num_points"],
        oversample_ratio=config["oversample_ratio"],
        importance_sample_ratio=config["importance_sample_ratio"],
        class_weight=config["cost_class"],
        mask_weight=config["cost_mask"],
        dice_weight=config["cost_dice"],
        draw_points=source,
    )
    logits = part["pred_logits"].clone().requires_grad_()
    masks = part["pred_masks"].clone().requires_grad_()
    losses = criterion(as_output(logits, masks), targets)
    # The reference losses are not weighted.
    losses["loss_ce"] = losses["loss_ce"] / config["cost_class"]
    losses["loss_mask"] = losses["loss_mask"] / config["cost_mask"]
    losses["loss_dice"] = losses["loss_dice"] / config["cost_dice"]
    for name, value in losses.items():
        compare(f"Mask2Former {name}", value, part[name], atol=1e-5)
    sum(losses.values()).backward()
    compare("gradient of the losses, pred_logits", logits.grad, part["grad_sum_pred_logits"], atol=1e-6)
    compare("gradient of the losses, pred_masks", masks.grad, part["grad_sum_pred_masks"], atol=1e-6)
