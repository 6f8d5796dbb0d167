import logging

import pytest
import torch
from toy_training import toy_cfg

from mta_clip.engine.lr_scheduler import WarmupPolyLR, build_lr_scheduler, continue_schedule


def lr_at(iteration: int, *, base: float, **kwargs) -> float:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = WarmupPolyLR(optimizer, **kwargs)
    scheduler.last_epoch = iteration
    return scheduler.get_lr()[0]


def lrs_of(optimizer) -> list[float]:
    """Of each group."""
    return [group["lr"] for group in optimizer.param_groups]


def lrs_of_steps(optimizer, scheduler, steps: int) -> list[list[float]]:
    """Takes some steps; the learning rates that each was taken with."""
    lrs = []
    for _ in range(steps):
        lrs.append(lrs_of(optimizer))
        optimizer.step()
        scheduler.step()
    return lrs


@pytest.mark.parametrize(
    ("iteration", "expected"), [(0, 1e-4), (80000, 5.3589e-5), (160000, 0.0), (170000, 0.0)]
)  # Mask2Former on ADE20K
def test_poly_decay(iteration, expected):
    assert lr_at(iteration, base=1e-4, max_iters=160000) == pytest.approx(expected, rel=1e-4)


WARM_UP = {"base": 1e-4, "max_iters": 160000, "warmup_iters": 1500, "warmup_factor": 0.1}


def test_warm_up_multiplies_the_decay():
    assert lr_at(0, **WARM_UP) == pytest.approx(1e-5)
    assert lr_at(750, **WARM_UP) == pytest.approx(0.55e-4 * (1 - 750 / 160000) ** 0.9)
    assert lr_at(1500, **WARM_UP) == pytest.approx(1e-4 * (1 - 1500 / 160000) ** 0.9)


@pytest.mark.parametrize("iteration", [0, 1, 750, 1499, 1500, 1501, 80750, 159000, 159999, 160000, 170000])
def test_mta_clips_schedule_of_mmengine(iteration):
    """LinearLR(0.1, end=1500), then PolyLR(0.9, begin=1500, end=160000), of which each ends an iteration earlier."""
    warm_up = 0.1 + 0.9 * min(iteration / 1499, 1)
    decay = max(0, 1 - max(0, iteration - 1500) / (160000 - 1500 - 1)) ** 0.9
    ours = lr_at(iteration, decay_after_warmup=True, **WARM_UP)
    assert ours == pytest.approx(1e-4 * warm_up * decay, abs=6.1e-8)  # a 1499th of the warm-up
    if iteration >= 1500:
        assert ours == pytest.approx(1e-4 * decay, abs=2.1e-9)
    assert ours <= lr_at(1500, decay_after_warmup=True, **WARM_UP) == 1e-4


def test_decay_after_a_warm_up_without_iterations_left():
    settings = {"base": 1.0, "max_iters": 10, "warmup_iters": 10, "warmup_factor": 0.0, "decay_after_warmup": True}
    assert [lr_at(i, **settings) for i in (0, 5, 10, 20)] == pytest.approx([0, 0.5, 1, 0])


def test_decay_after_warm_up_by_key(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cfg = toy_cfg(tmp_path, MAX_ITER=30, WARMUP_ITERS=10, WARMUP_FACTOR=0.5, POLY_LR_AFTER_WARMUP="True")
    lrs = [lr for (lr,) in lrs_of_steps(optimizer, build_lr_scheduler(cfg, optimizer), 30)]
    assert lrs == pytest.approx([0.5 + 0.05 * i for i in range(10)] + [(1 - i / 20) ** 0.9 for i in range(20)])


@pytest.mark.parametrize(
    ("max_iters", "iteration", "expected"),
    [
        (20000, 0, 2e-10),
        (20000, 750, 9.66356e-5),
        (20000, 1500, 1.86516e-4),
        (20000, 10000, 1.07641e-4),
        (20000, 19999, 1.02679e-6),
        (80000, 0, 2e-10),
        (80000, 750, 9.91602e-5),
        (80000, 1500, 1.96639e-4),
        (80000, 40000, 1.07641e-4),
        (80000, 79999, 1.00769e-6),
    ],
)
def test_tagclip_schedule_of_mmcv(max_iters, iteration, expected):
    lr = lr_at(iteration, base=2e-4, max_iters=max_iters, min_lr=1e-6, warmup_iters=1500, warmup_factor=1e-6)
    assert lr == pytest.approx(expected, rel=1e-5)


def test_constant_ending_holds_a_share_of_the_base_but_not_during_warm_up():
    settings = {"base": 1.0, "max_iters": 100, "constant_ending": 0.2, "warmup_iters": 10, "warmup_factor": 0.0}
    assert lr_at(0, **settings) == 0
    assert lr_at(99, **settings) == 0.2
    assert lr_at(50, **settings) == pytest.approx(0.5**0.9)


def test_groups_keep_their_ratio_and_the_state_is_the_position(tmp_path):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = build_lr_scheduler(toy_cfg(tmp_path, MAX_ITER=10), optimizer)
    lrs_of_steps(optimizer, scheduler, 4)
    assert lrs_of(optimizer) == pytest.approx([0.6**0.9, 0.1 * 0.6**0.9])
    assert scheduler.state_dict() == {"base_lrs": [1.0, 0.1], "last_epoch": 4}


def test_detectron2s_schedules_remain_available(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cfg = toy_cfg(tmp_path, LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS="(2,)", MAX_ITER=4)
    lrs = [lr for (lr,) in lrs_of_steps(optimizer, build_lr_scheduler(cfg, optimizer), 4)]
    assert lrs == pytest.approx([1.0, 1.0, 0.1, 0.1])


def test_unknown_warm_up_is_refused(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="WARMUP_METHOD is 'constant'"):
        build_lr_scheduler(toy_cfg(tmp_path, WARMUP_METHOD="constant"), optimizer)


@pytest.mark.parametrize("schedule", ["WarmupPolyLR", "WarmupCosineLR"])
@pytest.mark.parametrize("max_iter", [4, 8])
def test_a_finished_schedule_goes_on_as_a_longer_one(tmp_path, caplog, schedule, max_iter):
    def make(max_iter):
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        cfg = toy_cfg(tmp_path, MAX_ITER=max_iter, LR_SCHEDULER_NAME=schedule)
        return optimizer, build_lr_scheduler(cfg, optimizer)

    short, whole, resumed = make(4), make(max_iter), make(max_iter)
    lrs_of_steps(*short, 4)
    lrs_of_steps(*whole, 4)
    resumed[0].load_state_dict(short[0].state_dict())
    resumed[1].load_state_dict(short[1].state_dict())
    with caplog.at_level(logging.WARNING):
        continue_schedule(resumed[1], resumed[0])
    assert lrs_of_steps(*resumed, 2) == lrs_of_steps(*whole, 2)
    assert ("stopped at lr 0, where the schedule of this config has" in caplog.text) == (max_iter == 8)
