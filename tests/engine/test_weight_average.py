"""SOLVER.EMA: the average itself, and what a run evaluates and saves. test_trainer.py resumes one."""

import pytest
import torch
from torch import nn
from toy_training import ToyTrainer, toy_cfg, train_toy

from mta_clip.engine.weight_average import WeightAverage

EMA = {"EMA.ENABLED": True, "EMA.DECAY": 0.5}


def saved(folder, name: str = "model_final") -> dict:
    return torch.load(folder / f"{name}.pth", weights_only=True)


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_the_average_by_hand():
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 1))
    model[2].requires_grad_(False)
    tensors = {"0.weight": model[0].weight, "1.running_var": model[1].running_var}
    for tensor in tensors.values():
        tensor.data.fill_(8.0)
    average = WeightAverage(model, decay=0.25)
    assert average.others().keys() == {*(f"{i}.{name}" for i in "01" for name in ("weight", "bias"))} | {
        "1.running_mean",
        "1.running_var",
    }
    expected = 8.0
    for step, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 0.25, 0.25]):
        for tensor in tensors.values():
            tensor.data.fill_(step)
        average.update(step)
        expected = decay * expected + (1 - decay) * step
    for name, tensor in tensors.items():
        assert average.others()[name].item() == pytest.approx(expected)
        with pytest.raises(KeyError), average.applied():
            assert tensor.item() == pytest.approx(expected) and average.others()[name].item() == 4
            raise KeyError
        assert tensor.item() == 4


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_has_a_range(decay):
    with pytest.raises(ValueError, match=r"SOLVER\.EMA\.DECAY"):
        WeightAverage(nn.Linear(1, 1), decay=decay)


class WatchedToyTrainer(ToyTrainer):
    """Remembers the weights of its last evaluation."""

    def test(self) -> dict:
        self.evaluated = {name: value.clone() for name, value in self.model.state_dict().items()}
        return super().test()


def test_averages_are_evaluated_and_saved_and_change_no_training(tmp_path):
    plain = train_toy(tmp_path / "plain", CHECKPOINT_PERIOD=1)
    torch.manual_seed(0)
    trainer = WatchedToyTrainer(toy_cfg(tmp_path / "ema", **EMA))
    expected = trainer.model.queries.weight.detach().clone()
    trainer.train()
    file = saved(tmp_path / "ema")
    assert_equal(file["trainer"]["weights"], plain)
    assert_equal(dict(trainer.model.state_dict()), plain)
    assert_equal(file["model"], trainer.evaluated)
    for step in range(8):  # the decay of the config counts from step 8 on
        weights = saved(tmp_path / "plain", "model_final" if step == 7 else f"model_{step:07d}")["model"]
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * weights["queries.weight"]
    torch.testing.assert_close(file["model"]["queries.weight"], expected)


def test_the_best_checkpoint_has_the_averages(tmp_path):
    cfg = toy_cfg(tmp_path, MAX_ITER=3, **EMA).clone()
    cfg.defrost()
    cfg.TEST.KEEP_BEST = "sem_seg/mIoU"
    trainer = WatchedToyTrainer(cfg)
    trainer.train()
    assert_equal(saved(tmp_path, "model_best")["model"], trainer.evaluated)


def test_it_can_be_switched_on_and_off(tmp_path):
    train_toy(tmp_path, MAX_ITER=4, **EMA)
    for end, settings in ((8, {}), (12, EMA)):  # resumes a checkpoint with an average, then one without
        file = saved(tmp_path)
        trainer = ToyTrainer(toy_cfg(tmp_path, MAX_ITER=end, **settings))
        trainer.resume_or_load(resume=True)
        assert_equal(dict(trainer.model.state_dict()), file["trainer"].get("weights", file["model"]))
        if settings:
            assert_equal(trainer.average.others(), file["model"])
        trainer.train()
        assert ("weights" in saved(tmp_path)["trainer"]) == bool(settings)


def test_it_starts_with_the_weights_of_the_config(tmp_path):
    weights = train_toy(tmp_path / "first", MAX_ITER=2)
    cfg = toy_cfg(tmp_path / "second", **EMA).clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(tmp_path / "first" / "model_final.pth")
    trainer = ToyTrainer(cfg)
    trainer.resume_or_load(resume=False)
    assert_equal(trainer.average.others(), weights)
