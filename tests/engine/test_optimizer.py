import pytest
import torch
from detectron2.modeling import build_backbone, build_sem_seg_head
from torch import nn
from toy_training import ToySegmentor, ToyTrainer, toy_cfg, train_toy

import mta_clip.modeling  # noqa: F401  (registers the head)
from mta_clip.config import get_cfg
from mta_clip.engine.optimizer import build_optimizer, describe_groups, group_parameters

RULES = {
    "base_lr": 1e-4,
    "weight_decay": 0.05,
    "weight_decay_norm": 0.0,
    "weight_decay_embed": 0.0,
    "backbone_multiplier": 0.1,
}


class Model(nn.Module):
    """One parameter of every kind that a rule speaks of."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        self.backbone.positional_embedding = nn.Parameter(torch.zeros(5))
        self.level_embed = nn.Parameter(torch.zeros(3, 2))  # raw, as the pixel decoder's: decays
        self.head = nn.ModuleDict({"linear": nn.Linear(2, 2), "norm": nn.LayerNorm(2), "query": nn.Embedding(4, 2)})
        self.head["tied"] = nn.Linear(2, 2, bias=False)
        self.head["tied"].weight = self.head["linear"].weight
        self.prompt = nn.Module()
        self.prompt.contexts = nn.Parameter(torch.zeros(3, 8, 2))
        self.prompt.gamma = nn.Parameter(torch.zeros(2))
        self.prompt.text_encoder = nn.Linear(7, 7).requires_grad_(False)


def grouped(model: nn.Module, **changes) -> dict[tuple[float, float], set[str]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = group_parameters(model, **(RULES | changes))
    return {(group.lr, group.weight_decay): {names[p] for p in group.parameters} for group in groups}


def test_rules_of_mask2former_and_mta_clip():
    assert grouped(Model()) == {
        (1e-5, 0.05): {"backbone.0.weight", "backbone.0.bias"},
        (1e-5, 0.0): {"backbone.1.weight", "backbone.1.bias", "backbone.positional_embedding"},
        (1e-4, 0.05): {"level_embed", "head.linear.weight", "head.linear.bias"},
        (1e-4, 0.0): {"head.norm.weight", "head.norm.bias", "head.query.weight", "prompt.contexts", "prompt.gamma"},
    }


def test_one_rate_and_decay_for_all_is_one_group():
    """What TagCLIP trains with."""
    groups = grouped(
        Model(), weight_decay=0.01, weight_decay_norm=0.01, weight_decay_embed=0.01, backbone_multiplier=1.0
    )
    assert list(groups) == [(1e-4, 0.01)]


def test_decay_by_name_comes_before_the_rules(caplog):
    rows = [["backbone.1.bias", 0.3], ["backbone.*", 0.02], ["*contexts", 0.02], ["*.gamma", 0.02]]
    assert grouped(Model(), weight_decay_by_name=rows) == {
        (1e-5, 0.3): {"backbone.1.bias"},
        (1e-5, 0.02): {"backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.positional_embedding"},
        (1e-4, 0.02): {"prompt.contexts", "prompt.gamma"},
        (1e-4, 0.05): {"level_embed", "head.linear.weight", "head.linear.bias"},
        (1e-4, 0.0): {"head.norm.weight", "head.norm.bias", "head.query.weight"},
    }
    assert not caplog.messages
    grouped(Model(), weight_decay_by_name=[*rows, ["contexts", 0.1]])
    assert caplog.messages == ["SOLVER.WEIGHT_DECAY_BY_NAME: no trainable parameter is decided by contexts"]


def test_decay_by_name_is_read_from_the_config(tmp_path):
    model = ToySegmentor(toy_cfg(tmp_path))
    optimizer = build_optimizer(toy_cfg(tmp_path, WEIGHT_DECAY_BY_NAME="[['*', 0.7]]"), model)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.7}
    for wrong in ("[['*']]", "[[0.7, '*']]", "['*', 0.7]"):
        with pytest.raises(ValueError, match="is not a pair"):
            build_optimizer(toy_cfg(tmp_path, WEIGHT_DECAY_BY_NAME=wrong), model)


def test_shared_parameters_count_once_and_frozen_ones_never():
    model = Model()
    parameters = [p for group in group_parameters(model, **RULES) for p in group.parameters]
    assert len(parameters) == len(set(parameters))
    assert set(parameters) == {p for p in model.parameters() if p.requires_grad}


def test_merged_groups_train_like_one_group_per_parameter(tmp_path):
    def trained(split: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = ToySegmentor(toy_cfg(tmp_path))
        optimizer = build_optimizer(toy_cfg(tmp_path), model)
        if split:
            options = {key: optimizer.param_groups[0][key] for key in ("betas", "eps")}
            groups = [
                {"params": [p], "lr": group["lr"], "weight_decay": group["weight_decay"]}
                for group in optimizer.param_groups
                for p in group["params"]
            ]
            optimizer = torch.optim.AdamW(groups, **options)
        for step in range(3):
            for i, parameter in enumerate(model.parameters()):
                parameter.grad = torch.full_like(parameter, 0.1 * (step - i))
            optimizer.step()
        return list(model.parameters())

    for merged, single in zip(trained(split=False), trained(split=True), strict=True):
        torch.testing.assert_close(merged, single, rtol=0, atol=0)


def test_optimizer_by_name(tmp_path):
    model = ToySegmentor(toy_cfg(tmp_path))
    adamw = build_optimizer(toy_cfg(tmp_path), model)
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["betas"] == (0.9, 0.999)
    sgd = build_optimizer(toy_cfg(tmp_path, OPTIMIZER="SGD", MOMENTUM=0.7), model)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["momentum"] == 0.7
    with pytest.raises(ValueError, match="LION"):
        build_optimizer(toy_cfg(tmp_path, OPTIMIZER="LION"), model)


def test_nothing_to_train_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(toy_cfg(tmp_path), ToySegmentor(toy_cfg(tmp_path)).requires_grad_(False))


def test_table_counts_every_parameter(tmp_path):
    model = Model()
    table = describe_groups(build_optimizer(toy_cfg(tmp_path), model), model)
    frozen = [line for line in table.splitlines() if line.startswith("frozen")]
    assert frozen[0].split() == ["frozen", "2", "56", "-", "-"]
    assert any(line.split()[:2] == ["backbone:", "weights"] and line.split()[-3:] == ["8", "0.005", "0.05"]
               for line in table.splitlines())  # fmt: skip


def test_mask2former_r50_on_ade20k():
    """Mask2Former has 345 groups of one parameter each: 53 + 199 + 93."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"
    backbone = build_backbone(cfg)
    head = build_sem_seg_head(cfg, backbone.output_shape())
    groups = group_parameters(nn.ModuleDict({"backbone": backbone, "sem_seg_head": head}), **RULES)
    assert {(g.lr, g.weight_decay): (len(g.parameters), g.size) for g in groups} == {
        (1e-5, 0.05): (53, 23_454_912),
        (1e-4, 0.05): (199, 20_458_327),
        (1e-4, 0.0): (93, 75_008),
    }


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
def test_fused_steps_are_the_same_up_to_rounding(tmp_path, name):
    plain, fused = (train_toy(tmp_path / str(key), OPTIMIZER=name, FUSED=key) for key in (False, True))
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_a_resumed_run_may_choose_fused_steps_anew(tmp_path, fused):
    train_toy(tmp_path, MAX_ITER=4, FUSED=not fused)
    trainer = ToyTrainer(toy_cfg(tmp_path, FUSED=fused))
    trainer.resume_or_load(resume=True)
    assert [bool(group["fused"]) for group in trainer.optimizer.param_groups] == [fused] * 2
    assert all(state["step"] == 4 for state in trainer.optimizer.state.values())
    trainer.train()
