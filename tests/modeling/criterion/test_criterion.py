import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.utils import comm

from mta_clip.config import get_cfg
from mta_clip.modeling.criterion import MaskTextCriterion, SimilarityLoss, targets_from_sem_seg
from mta_clip.modeling.outputs import HeadOutput, LayerPrediction

NUM_CLASSES = 4


def make_criterion(text=True, **options):
    settings = {"num_classes": NUM_CLASSES, "num_points": 48}
    settings["similarity_loss"] = SimilarityLoss(kind="MixNeg") if text else None
    return MaskTextCriterion(**(settings | options))


def make_output(num_layers=3, images=2, queries=6, text=True):
    def leaf(*shape):
        return torch.randn(*shape).requires_grad_()

    layers = [
        LayerPrediction(
            leaf(images, queries, NUM_CLASSES + 1),
            leaf(images, queries, 8),
            leaf(2, images, queries, NUM_CLASSES + 1) if text else None,
        )
        for _ in range(num_layers)
    ]
    return HeadOutput(leaf(images, 8, 4, 6), layers)


def make_targets(*, ignored=False, images=2):
    sem_segs = [torch.full((16, 24), 255) if ignored else torch.randint(NUM_CLASSES, (16, 24)) for _ in range(images)]
    return targets_from_sem_seg(sem_segs, (16, 24), 255, NUM_CLASSES)


def test_keys_follow_mask2former():
    losses = make_criterion(text=False)(make_output(10, text=False), make_targets())
    names = ("loss_ce", "loss_mask", "loss_dice")
    assert set(losses) == {name + suffix for name in names for suffix in ("", *(f"_{i}" for i in range(9)))}
    assert len(losses) == 30
    losses = make_criterion()(make_output(3), make_targets())
    names = (*names, "loss_sim")
    assert set(losses) == {name + suffix for name in names for suffix in ("", "_0", "_1")}
    assert all(value.shape == () and value.dtype == torch.float32 for value in losses.values())


def test_supervision_keys():
    output, targets = make_output(3, text=False), make_targets()
    last_only = make_criterion(text=False, deep_supervision=False)(output, targets)
    assert set(last_only) == {"loss_ce", "loss_mask", "loss_dice"}
    without_initial = make_criterion(text=False, supervise_initial=False)(output, targets)
    assert {name for name in without_initial if name.startswith("loss_ce")} == {"loss_ce", "loss_ce_1"}
    only_one = HeadOutput(output.mask_features, output.layers[-1:])
    assert set(make_criterion(text=False, supervise_initial=False)(only_one, targets)) == set(last_only)


def test_every_layer_has_the_losses_it_has_alone():
    """All predictions are processed together: with given points the result is that of one at a time."""
    output, targets = make_output(3), make_targets()
    fixed = {}

    def same_points(num_sets, num_points, device):
        generator = torch.Generator().manual_seed(num_points)
        return fixed.setdefault(num_points, torch.rand(1, num_points, 2, generator=generator)).expand(num_sets, -1, -1)

    criterion = make_criterion(draw_points=same_points)
    together = criterion(output, targets)
    for index, layer in enumerate(output.layers):
        alone = criterion(HeadOutput(output.mask_features, [layer]), targets)
        suffix = "" if index == 2 else f"_{index}"
        for name, value in alone.items():
            assert torch.allclose(together[name + suffix], value, rtol=1e-5), name


def test_closed_form_class_loss():
    logits = torch.tensor([[[2.0, 0, 0, 1], [0, 0, 0, 3]]])
    targets = targets_from_sem_seg([torch.zeros(8, 8, dtype=torch.int64)], (8, 8), 255, 3)
    embed = torch.tensor([[[9.0], [-9.0]]])
    output = HeadOutput(torch.ones(1, 1, 2, 2), [LayerPrediction(logits, embed)])
    criterion = MaskTextCriterion(num_classes=3, num_points=16, class_weight=1.0)
    assert criterion(output, targets)["loss_ce"].item() == pytest.approx(0.4616, abs=1e-4)


def test_uniform_logits_and_weights():
    output = make_output(1)
    output.layers[0].class_logits = torch.zeros(2, 6, NUM_CLASSES + 1)
    output.layers[0].similarity = torch.zeros(2, 2, 6, NUM_CLASSES + 1)
    output.mask_features = torch.zeros(2, 8, 4, 6)
    losses = make_criterion(similarity_weight=3.0)(output, make_targets())
    assert losses["loss_ce"].item() == pytest.approx(2 * math.log(NUM_CLASSES + 1), rel=1e-6)
    assert losses["loss_sim"].item() == pytest.approx(3 * math.log(2 * (NUM_CLASSES + 1)), rel=1e-6)
    assert losses["loss_mask"].item() == pytest.approx(5 * math.log(2), rel=1e-6)


def test_loss_ce_is_torchs_weighted_mean():
    output, targets = make_output(1, text=False), make_targets()
    criterion = make_criterion(text=False, class_weight=1.0)
    layers = output.layers
    matches = criterion.matcher(layers[0].class_logits[None], layers[0].mask_embed[None], output.mask_features, targets)
    torch.manual_seed(0)
    labels = torch.full((2, 6), NUM_CLASSES)
    for row, match, target in zip(labels, matches, targets, strict=True):
        row[match.queries[0]] = target["labels"]
    weight = torch.tensor([1.0] * NUM_CLASSES + [0.1])
    expected = F.cross_entropy(layers[0].class_logits.flatten(0, 1), labels.flatten(), weight)
    criterion.matcher = lambda *_: matches
    assert torch.allclose(criterion(output, targets)["loss_ce"], expected)


def test_normalizers():
    output, targets = make_output(1, text=False), make_targets()
    num_masks = sum(len(target["labels"]) for target in targets)
    values = {}
    for normalizer in ("num_masks", "class_weight_sum"):
        torch.manual_seed(0)
        values[normalizer] = make_criterion(text=False, normalizer=normalizer)(output, targets)
    ratio = (num_masks + 0.1 * (12 - num_masks)) / num_masks
    for name in ("loss_mask", "loss_dice"):
        assert values["num_masks"][name].item() == pytest.approx(ratio * values["class_weight_sum"][name].item())


def test_one_mask_and_one_query_have_the_divisor_one():
    output, losses = make_output(1, images=1, queries=1, text=False), []
    targets = targets_from_sem_seg([torch.zeros(16, 24, dtype=torch.int64)], (16, 24), 255, NUM_CLASSES)
    for normalizer in ("num_masks", "class_weight_sum"):
        torch.manual_seed(0)
        losses.append(make_criterion(text=False, normalizer=normalizer)(output, targets)["loss_dice"].item())
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize("normalizer", ["num_masks", "class_weight_sum"])
def test_the_mean_of_equal_parts_is_the_whole(normalizer):
    def same_points(num_sets, num_points, device):
        return torch.rand(1, num_points, 2, generator=torch.Generator().manual_seed(num_points)).expand(
            num_sets, -1, -1
        )

    criterion = make_criterion(draw_points=same_points, normalizer=normalizer)
    output = make_output(2, images=4, queries=3)
    sem_segs = [torch.arange(384).reshape(16, 24) % count for count in (4, 1, 2, 3)]  # 4 masks are more than queries
    targets = targets_from_sem_seg(sem_segs, (16, 24), 255, NUM_CLASSES)
    whole = criterion(output, targets)
    parts = []
    for i in range(2):
        half = slice(2 * i, 2 * i + 2)
        layers = [
            LayerPrediction(layer.class_logits[half], layer.mask_embed[half], layer.similarity[:, half])
            for layer in output.layers
        ]
        part = HeadOutput(output.mask_features[half], layers)
        parts.append(criterion(part, targets[half], masks_of_step=[4, 1, 2, 3]))
    for name, value in whole.items():
        assert torch.allclose((parts[0][name] + parts[1][name]) / 2, value, rtol=1e-5), name


def test_defaults_are_those_of_the_config():
    parameters = inspect.signature(MaskTextCriterion.__init__).parameters
    values = MaskTextCriterion.from_config(get_cfg())
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    shared = defaults.keys() & values.keys() - {"similarity_loss"}
    assert len(shared) == 13 and {name: defaults[name] for name in shared} == {name: values[name] for name in shared}


def test_gradients_reach_every_prediction():
    output = make_output(3)
    sum(make_criterion()(output, make_targets()).values()).backward()
    for layer in output.layers:
        for value in (layer.class_logits, layer.mask_embed, layer.similarity):
            assert value.grad.isfinite().all() and (value.grad != 0).any()
    assert (output.mask_features.grad != 0).any()


@pytest.mark.parametrize("normalizer", ["num_masks", "class_weight_sum"])
def test_a_batch_without_labelled_pixel_trains(normalizer):
    output = make_output(3)
    losses = make_criterion(normalizer=normalizer)(output, make_targets(ignored=True))
    for name, value in losses.items():
        assert value.isfinite() and value.requires_grad
        assert value.item() == 0 if name.startswith(("loss_mask", "loss_dice")) else value.item() > 0
    sum(losses.values()).backward()
    assert (output.mask_features.grad == 0).all() and all(layer.mask_embed.grad is not None for layer in output.layers)


def test_no_object_may_weigh_nothing():
    losses = make_criterion(no_object_weight=0.0)(make_output(1), make_targets(ignored=True))
    assert all(value.item() == 0 for value in losses.values())


def test_nan_logits_reach_the_loss_but_do_not_crash():
    output = make_output(2)
    with torch.no_grad():
        output.layers[1].class_logits[0, 2] = torch.nan
    losses = make_criterion()(output, make_targets())
    assert losses["loss_ce"].isnan() and losses["loss_ce_0"].isfinite() and losses["loss_mask"].isfinite()


def test_float32_under_autocast():
    output, targets = make_output(2), make_targets()
    criterion = make_criterion()
    torch.manual_seed(0)
    plain = criterion(output, targets)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = criterion(output, targets)
    for name, value in plain.items():
        assert mixed[name].dtype == torch.float32 and torch.equal(mixed[name], value)


def test_padding_does_not_matter_if_ignored_pixels_are_excluded():
    """Other masks on ignored pixels change nothing: bit-equal losses."""
    output, targets = make_output(2), make_targets()
    targets[0]["ignored"][:, 10:] = True
    values = []
    for flip in (False, True):
        targets[0]["masks"][:, :, 10:] ^= flip
        torch.manual_seed(0)
        values.append(make_criterion(ignored_pixels="excluded")(output, targets))
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[0])


def test_empty_weight_is_part_of_the_checkpoint():
    criterion = make_criterion()
    assert list(criterion.state_dict()) == ["empty_weight"]
    assert criterion.empty_weight.tolist() == pytest.approx([1, 1, 1, 1, 0.1])


def test_bad_inputs_are_refused():
    targets = make_targets()
    targets[1]["labels"][-1] = NUM_CLASSES
    with pytest.raises(ValueError, match=r"label 4 is neither a class \(0\.\.3\)"):
        make_criterion()(make_output(), targets)
    with pytest.raises(ValueError, match="predicts no similarity"):
        make_criterion()(make_output(text=False), make_targets())
    with pytest.raises(ValueError, match="class logits have 5 columns, expected 8"):
        make_criterion(num_classes=7)(make_output(), make_targets())
    with pytest.raises(ValueError, match=r"'masks'.*num_masks"):
        make_criterion(normalizer="masks")
    with pytest.raises(ValueError, match=r"'ignore'.*excluded"):
        make_criterion(ignored_pixels="ignore")


def test_built_from_config():
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 11
    cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT = 0.2
    cfg.MODEL.MTA.SIMILARITY_LOSS = "AllPos"
    criterion = MaskTextCriterion(cfg)
    assert criterion.empty_weight.shape == (12,) and criterion.empty_weight[-1].item() == pytest.approx(0.2)
    assert criterion.similarity_loss.kind == "AllPos"
    cfg.MODEL.MTA.SIMILARITY_WEIGHT = 0.0
    assert MaskTextCriterion(cfg).similarity_loss is None
    cfg.MODEL.MTA.SIMILARITY_WEIGHT = 1.0
    cfg.MODEL.PROMPT.NAME = ""
    assert MaskTextCriterion(cfg).similarity_loss is None


def test_two_processes_average_to_one(monkeypatch):
    """The mean over processes of each loss is the loss of the whole batch, though the images differ in masks."""
    output, targets = make_output(2), make_targets()
    sem_seg = torch.full((16, 24), 255)
    sem_seg[:8] = 2
    targets[1] = targets_from_sem_seg([sem_seg], (16, 24), 255, NUM_CLASSES)[0]

    def same_points(num_sets, num_points, device):
        generator = torch.Generator().manual_seed(num_points)
        return torch.rand(1, num_points, 2, generator=generator).expand(num_sets, -1, -1)

    criterion = make_criterion(draw_points=same_points)
    whole = criterion(output, targets)
    halves = [
        HeadOutput(
            output.mask_features[part],
            [LayerPrediction(x.class_logits[part], x.mask_embed[part], x.similarity[:, part]) for x in output.layers],
        )
        for part in (slice(0, 1), slice(1, 2))
    ]
    sums = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: sums.append(values.clone()))
    for half, target in zip(halves, targets, strict=True):
        criterion(half, [target])
    total = sum(sums)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.copy_(total))
    parts = [criterion(half, [target]) for half, target in zip(halves, targets, strict=True)]
    for name, value in whole.items():
        assert torch.allclose((parts[0][name] + parts[1][name]) / 2, value, rtol=1e-5), name


def test_balance_of_contexts_is_a_loss_of_its_own():
    output, targets = make_output(), make_targets()
    torch.manual_seed(0)
    plain = make_criterion()(output, targets, 0.07)
    torch.manual_seed(0)
    losses = make_criterion(balance_weight=2.0)(output, targets, 0.07)
    assert sorted(losses.keys() - plain.keys()) == ["loss_balance", "loss_balance_0", "loss_balance_1"]
    assert all(torch.equal(losses[name], value) for name, value in plain.items())
    assert all(0 < losses[name] <= 2 for name in losses.keys() - plain.keys())
    for layer in output.layers:
        layer.similarity = layer.similarity / 0.07
    torch.manual_seed(0)
    divided = make_criterion(balance_weight=2.0)(output, targets)
    assert divided["loss_balance"].item() == pytest.approx(losses["loss_balance"].item())
    with pytest.raises(ValueError, match=r"CONTEXT_BALANCE 2.0 .* but there is none"):
        make_criterion(text=False, balance_weight=2.0)
