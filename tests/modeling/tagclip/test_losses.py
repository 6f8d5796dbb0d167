import math

import pytest
import torch
from golden_files import compare, golden_params, load
from torch.nn import functional as F

from mta_clip.data.zero_shot import ClassSplit
from mta_clip.modeling.tagclip.labels import TrainingLabels
from mta_clip.modeling.tagclip.losses import TrustyCriterion, class_targets, focal_loss

TERMS = (("focal", "loss_mask"), ("dice", "loss_dice"), ("trusty", "loss_trusty"))
WEIGHTS = {"focal": 20.0, "dice": 1.0, "trusty": 10.0}


def accuracy_range(mask_logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Percent of labelled pixels whose highest class is theirs: with ties (the logits are rounded) lost, and won."""
    labelled = labels != 255
    if not labelled.any():
        return 100.0, 100.0
    own = mask_logits.gather(1, (labels * labelled)[:, None])
    others = mask_logits.masked_fill(class_targets(labels, mask_logits.shape[1]), -torch.inf).amax(1, keepdim=True)
    return tuple(100 * won[:, 0][labelled].float().mean().item() for won in (own > others, own >= others))


def split_of(config: dict) -> ClassSplit:
    names = [f"class {i}" for i in range(config["num_classes"])]
    return ClassSplit(names, [names[i] for i in config["unseen"]])


def released_lookup(split: ClassSplit) -> torch.Tensor:
    """Of the released transductive training: unseen classes are hidden as background although they are trained."""
    return TrainingLabels(split=split, protocol="transductive", pseudo_labels=False).table


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_loss"))
@pytest.mark.parametrize("part", ["", "st/", "empty/"])
def test_reference_losses(path, part):
    config, arrays = load(path)
    split = split_of(config)
    gt, mask_logits, trusty_logits = arrays["gt"], arrays["mask_logits"], arrays["trusty_logits"]
    if part == "st/":  # the released look-up hides unseen classes as if they were background
        labels, mask_logits = released_lookup(split)[gt], arrays["st/mask_logits"]
    else:
        labels = TrainingLabels(split=split)(gt)
    trusty_target = torch.isin(gt, torch.tensor(split.unseen))
    if part == "empty/":
        labels, mask_logits, trusty_logits, trusty_target = (
            x[1:2] for x in (labels, mask_logits, trusty_logits, trusty_target)
        )
    else:
        assert torch.equal(labels, arrays[f"{part}gt_relabelled"])
    targets = class_targets(labels, mask_logits.shape[1])
    assert torch.equal(targets.flatten(2).any(2).sum(1), arrays[f"{part}num_present"])
    if part == "":
        assert torch.equal(targets.to(torch.uint8), arrays["class_target"])
        assert torch.equal(trusty_target[:, None].to(torch.uint8), arrays["trusty_target"])

    mask_logits, trusty_logits = (x.clone().requires_grad_() for x in (mask_logits, trusty_logits))
    losses = TrustyCriterion()(mask_logits, labels, trusty_logits, trusty_target)
    for official, ours in TERMS:
        compare("losses", losses[ours], arrays[f"{part}weighted_{official}"], atol=1e-6, rtol=1e-4)
        unweighted = losses[ours] / WEIGHTS[official]
        compare("losses", unweighted, arrays[f"{part}unweighted_{official}"], atol=1e-6, rtol=1e-4)
    compare("losses", sum(losses.values()), arrays[f"{part}total"], atol=1e-6, rtol=1e-4)
    lowest, highest = accuracy_range(mask_logits, labels)
    assert lowest - 1e-3 <= arrays[f"{part}acc_seg"] <= highest + 1e-3

    leaves = {"mask_logits": mask_logits, "trusty_logits": trusty_logits}
    terms = {official: losses[ours] for official, ours in TERMS} | {"total": sum(losses.values())}
    for name in [name for name in arrays if name.startswith(f"{part}grad_")]:
        term, leaf = name.removeprefix(f"{part}grad_").split("/")
        (gradient,) = torch.autograd.grad(terms[term], leaves[leaf], retain_graph=True)
        compare("loss gradients", gradient, arrays[name], atol=1e-4 * arrays[name].abs().max().item())


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_loss"))
def test_reference_look_ups(path):
    config, arrays = load(path)
    split = split_of(config)
    valid = [*range(config["num_classes"]), 255]
    assert torch.equal(TrainingLabels(split=split).table, arrays["lut_inductive"])
    assert torch.equal(released_lookup(split)[valid], arrays["lut_selftrain"][valid])


def test_worked_example():
    """Two images of 512 x 512, 15 classes, two present in each on a quarter of the pixels, all logits 0: 20.323881."""
    labels = torch.full((2, 512, 512), 255)
    labels[:, :256, :256], labels[:, 256:, 256:] = 3, 7
    trusty = torch.zeros(2, 512, 512, dtype=torch.bool)
    trusty[:, :64] = True
    losses = TrustyCriterion()(torch.zeros(2, 15, 512, 512), labels, torch.zeros(2, 1, 512, 512), trusty)
    assert losses["loss_mask"].item() == pytest.approx(19.06154, abs=2e-5)
    assert losses["loss_dice"].item() == pytest.approx(0.6666633, abs=2e-6)
    assert losses["loss_trusty"].item() == pytest.approx(0.595673, abs=2e-6)
    assert sum(losses.values()).item() == pytest.approx(20.323881, abs=2e-5)


def test_worked_example_on_a_small_map():
    labels = torch.full((2, 8, 8), 255)
    labels[:, :4, :4], labels[:, 4:, 4:] = 3, 7
    trusty = torch.zeros(2, 8, 8, dtype=torch.bool)
    trusty[:, :1] = True
    losses = TrustyCriterion()(torch.zeros(2, 15, 8, 8), labels, torch.zeros(2, 1, 8, 8), trusty)
    assert losses["loss_dice"].item() == pytest.approx(0.6530612, abs=1e-6)
    assert sum(losses.values()).item() == pytest.approx(20.310278, abs=2e-5)


def test_focal_loss_at_zero():
    zeros = torch.zeros(1, 2, 2)
    assert focal_loss(zeros, zeros).item() == pytest.approx(0.75 * 0.25 * math.log(2))
    assert focal_loss(zeros, zeros + 1).item() == pytest.approx(0.25 * 0.25 * math.log(2))


def test_unlabelled_pixels_are_negatives_of_every_class():
    logits = torch.full((1, 2, 4, 4), -3.0)
    labels = torch.full((1, 4, 4), 255)
    high_on_void = logits.clone()
    high_on_void[..., 0, 0] = 3.0
    quiet, loud = (TrustyCriterion()(x, labels)["loss_mask"] for x in (logits, high_on_void))
    assert loud > quiet
    assert torch.equal(
        TrustyCriterion()(logits, labels)["loss_mask"], TrustyCriterion()(logits, labels * 0 - 1)["loss_mask"]
    )


def test_empty_batch_trains():
    logits, trusty = torch.randn(2, 3, 5, 5, requires_grad=True), torch.randn(2, 1, 5, 5, requires_grad=True)
    void = torch.full((2, 5, 5), 255)
    losses = TrustyCriterion()(logits, void, trusty, void == 0)
    assert losses["loss_dice"] == 0
    sum(losses.values()).backward()
    assert logits.grad.isfinite().all() and trusty.grad.isfinite().all()


def test_dice_on_the_trusty_map():
    trusty = torch.zeros(1, 1, 2, 2)
    labels = torch.tensor([[[0, 0], [255, 255]]])
    loss = TrustyCriterion(trusty_loss="dice", trusty_weight=1.0)(torch.zeros(1, 1, 2, 2), labels, trusty, labels == 0)
    # s = 1/2 everywhere: sum(s t) = 1, sum(s) = 2, sum(t) = 2; one class present
    assert loss["loss_trusty"].item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    with pytest.raises(ValueError, match=r"dice.*focal.*'bce'"):
        TrustyCriterion(trusty_loss="bce")


def test_half_precision_logits_are_computed_in_float32():
    logits = (torch.randn(1, 3, 8, 8) * 4).bfloat16()
    labels = torch.randint(0, 3, (1, 8, 8))
    half, full = (TrustyCriterion()(x, labels) for x in (logits, logits.float()))
    assert all(torch.equal(half[name], full[name]) and half[name].dtype == torch.float32 for name in full)


def test_focal_matches_the_textbook_formula():
    logits, targets = torch.randn(2, 3, 6, 6) * 5, (torch.rand(2, 3, 6, 6) > 0.5).float()
    p = logits.double().sigmoid()
    right = torch.where(targets > 0, p, 1 - p)
    alpha = torch.where(targets > 0, 0.25, 0.75).double()
    expected = (-alpha * (1 - right) ** 2 * right.log()).flatten(2).mean(2)
    torch.testing.assert_close(focal_loss(logits, targets).double(), expected, atol=1e-6, rtol=1e-5)
    assert F.relu(expected).equal(expected)
