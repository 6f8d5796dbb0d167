import functools
import json
import os
import signal

import miniatures
import pytest
import torch
from dataset_files import write_values
from toy_training import ToyTrainer, toy_cfg, train_toy

from mta_clip.engine import interrupts
from mta_clip.engine.evaluate import mean_iou
from mta_clip.engine.trainer import METRICS_FILE


class Interrupted(Exception):
    pass


class InterruptedToyTrainer(ToyTrainer):
    """Dies before its sixth step, past the checkpoint after the fourth."""

    def before_step(self) -> None:
        super().before_step()
        if self.iter == 5:
            raise Interrupted


def assert_equal_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("change", [{"seed": 7}, {"seed": -1}, {"ACCUMULATE": 2}, {"EMA.ENABLED": True}])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, change):
    """Bit-equal, with augmentation, a model that draws random numbers, and evaluations that draw some in between."""
    settings = {"arch": "NoisyToySegmentor"} | change
    with pytest.raises(Interrupted):
        train_toy(tmp_path / "interrupted", trainer=InterruptedToyTrainer, **settings)
    saved = torch.load(tmp_path / "interrupted" / "model_0000003.pth", weights_only=True)
    resumed = train_toy(tmp_path / "interrupted", resume=True, **settings)
    whole = train_toy(tmp_path / "whole", **(settings | {"seed": saved["trainer"]["seed"]}))
    assert_equal_states(resumed, whole)
    files = [torch.load(tmp_path / run / "model_final.pth", weights_only=True) for run in ("interrupted", "whole")]
    assert_equal_states(*(file["model"] for file in files))
    assert not torch.equal(resumed["queries.weight"], saved["model"]["queries.weight"])


def test_a_job_that_started_again_resumes_by_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    for finished in (0, 4):  # the first time there is no checkpoint yet
        run = ToyTrainer(toy_cfg(tmp_path, MAX_ITER=4))
        run.resume_or_load(resume=False)
        assert run.start_iter == finished
        run.train()


@pytest.mark.parametrize("max_restarts", [0, 1])
def test_a_restart_does_not_continue_an_earlier_run(tmp_path, monkeypatch, max_restarts):
    train_toy(tmp_path, MAX_ITER=4)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", str(max_restarts))
    run = ToyTrainer(toy_cfg(tmp_path, MAX_ITER=4))
    run.resume_or_load(resume=False)
    assert run.start_iter == 0
    assert run.checkpointer.has_checkpoint() == (max_restarts == 0)


def read_metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def test_loader_workers_do_not_change_the_run(tmp_path):
    settings = {"arch": "NoisyToySegmentor", "MAX_ITER": 4}
    assert_equal_states(
        train_toy(tmp_path / "none", **settings), train_toy(tmp_path / "two", num_workers=2, **settings)
    )


def test_parts_of_batches_train_the_same(tmp_path):
    whole, parts = (train_toy(tmp_path / str(n), MAX_ITER=2, ACCUMULATE=n) for n in (1, 2))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)


def test_seed_decides_the_run(tmp_path):
    first, second = (train_toy(tmp_path / str(seed), MAX_ITER=2, seed=seed) for seed in (1, 2))
    assert not torch.equal(first["backbone.weight"], second["backbone.weight"])


def test_checkpoint_restores_optimizer_schedule_and_iteration(tmp_path):
    train_toy(tmp_path, MAX_ITER=4)
    trainer = ToyTrainer(toy_cfg(tmp_path, BASE_LR=999.0))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 4
    assert trainer.scheduler.last_epoch == 4
    assert max(group["lr"] for group in trainer.optimizer.param_groups) < 1
    assert len(trainer.optimizer.state) == 5  # tensors with AdamW moments


def test_resuming_a_finished_run_only_evaluates(tmp_path):
    before = train_toy(tmp_path)
    assert_equal_states(train_toy(tmp_path, resume=True), before)


def test_a_prolonged_run_continues_the_longer_schedule(tmp_path, caplog):
    train_toy(tmp_path)
    with caplog.at_level("WARNING"):
        train_toy(tmp_path, resume=True, MAX_ITER=16)
    assert "as if the schedule had been this one from the start" in caplog.text
    rates = {row["iteration"]: row["lr"] for row in read_metrics(tmp_path) if "lr" in row}
    assert rates[8] == pytest.approx(0.05 * 0.5**0.9) and rates[15] == pytest.approx(0.05 * (1 / 16) ** 0.9)


def test_a_run_beyond_its_end_is_refused(tmp_path):
    train_toy(tmp_path)
    with pytest.raises(ValueError, match=r"model_final\.pth has been trained for 8 iterations, but .*MAX_ITER is 6\."):
        train_toy(tmp_path, resume=True, MAX_ITER=6)


class ScriptedToyTrainer(ToyTrainer):
    """Evaluations give these scores, one after the other."""

    scores = ()

    def test(self) -> dict:
        return {"toy": {"sem_seg": {"mIoU": self.scores[min(self.iter + 1, self.max_iter) // 2 - 1]}}}


@pytest.fixture
def train_scripted(tmp_path, monkeypatch):
    """Trains with an evaluation every two of eight iterations; returns what model_best.pth says, and its weights."""

    def train(*scores, metric="toy/sem_seg/mIoU", until=8, resume=False):
        monkeypatch.setattr(ScriptedToyTrainer, "scores", scores)
        cfg = toy_cfg(tmp_path, MAX_ITER=until, CHECKPOINT_PERIOD=2).clone()
        cfg.defrost()
        cfg.TEST.EVAL_PERIOD, cfg.TEST.KEEP_BEST = 2, metric
        run = ScriptedToyTrainer(cfg)
        run.resume_or_load(resume=resume)
        run.train()
        saved = torch.load(tmp_path / "model_best.pth", weights_only=True)
        return saved["best"], saved["model"]

    return train


def test_the_best_model_is_kept(train_scripted, tmp_path):
    best, weights = train_scripted(3.0, 5.0, 4.0, 5.0)
    assert best == {"metric": "toy/sem_seg/mIoU", "value": 5.0, "iterations": 4}
    assert_equal_states(weights, torch.load(tmp_path / "model_0000003.pth", weights_only=True)["model"])
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"  # which --resume takes
    assert train_scripted(1.0, 2.0, 3.0, 4.0)[0]["value"] == 4.0  # another run in the same folder


def test_a_resumed_run_knows_the_best(train_scripted, tmp_path):
    train_scripted(3.0, 5.0, until=4)
    assert train_scripted(3.0, 5.0, 4.0, 4.5, resume=True)[0]["iterations"] == 4
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    assert train_scripted(3.0, 5.0, 6.0, 4.5, resume=True)[0] == {
        "metric": "toy/sem_seg/mIoU",
        "value": 6.0,
        "iterations": 6,
    }


def test_only_the_main_process_keeps_the_best(train_scripted, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    with pytest.raises(FileNotFoundError, match="model_best"):
        train_scripted(3.0, until=2)


def test_a_metric_that_evaluation_does_not_give_is_named(train_scripted):
    with pytest.raises(KeyError, match=r"KEEP_BEST is 'sem_seg/mIoU', but the evaluation gives toy/sem_seg/mIoU"):
        train_scripted(3.0, until=2, metric="sem_seg/mIoU")


def test_weights_start_a_run_at_iteration_zero(tmp_path):
    weights = train_toy(tmp_path / "first", MAX_ITER=2)
    cfg = toy_cfg(tmp_path / "second").clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(tmp_path / "first" / "model_final.pth")
    trainer = ToyTrainer(cfg)
    trainer.resume_or_load(resume=False)
    assert trainer.start_iter == 0
    assert_equal_states(dict(trainer.model.state_dict()), weights)


def test_results_and_logs(tmp_path):
    trainer = ToyTrainer(toy_cfg(tmp_path))
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert 50 <= mean_iou(results) <= 51
    rows = read_metrics(tmp_path)
    assert [row["iteration"] for row in rows] == list(range(9))
    assert [row["iteration"] for row in rows if "sem_seg/mIoU" in row] == [2, 5, 8]
    assert {"total_loss", "loss_ce", "loss_size", "lr", "grad_norm", "data_time"} <= rows[0].keys()
    assert rows[0]["total_loss"] == pytest.approx(rows[0]["loss_ce"] + rows[0]["loss_size"])
    assert rows[0]["lr"] == pytest.approx(0.05)
    assert rows[-1]["sem_seg/mIoU"] == results["sem_seg"]["mIoU"]
    assert not (tmp_path / "metrics.json").exists()  # the evaluator's
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_training_lowers_the_loss(tmp_path):
    train_toy(tmp_path, MAX_ITER=40)
    losses = [row["loss_ce"] for row in read_metrics(tmp_path)[:-1]]
    assert losses[-1] < 0.7 * losses[0]


def test_non_finite_loss_is_named_and_harms_no_weight(tmp_path):
    trainer = ToyTrainer(toy_cfg(tmp_path, arch="BreakingToySegmentor"))
    with pytest.raises(FloatingPointError, match=r"at iteration 3 in loss_ce; all losses: .*'loss_size': 0\.0"):
        trainer.train()
    assert {int(state["step"]) for state in trainer.optimizer.state.values()} == {3}
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert not (tmp_path / "model_0000003.pth").exists()


def test_bad_steps_can_be_skipped(tmp_path):
    trainer = ToyTrainer(toy_cfg(tmp_path, arch="BreakingToySegmentor", MAX_SKIPPED_STEPS=1))
    trainer.train()
    assert {int(state["step"]) for state in trainer.optimizer.state.values()} == {7}  # of 8
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    kept = torch.load(tmp_path / "non_finite.pth", weights_only=True)
    assert kept["iteration"] == 3 and [item["index"] for item in kept["batch"]]


def test_failed_run_is_not_evaluated(tmp_path):
    trainer = ToyTrainer(toy_cfg(tmp_path, arch="BreakingToySegmentor", MAX_ITER=4))  # breaks in the last step
    trainer.test = lambda: pytest.fail("evaluated after a failed step") if trainer.iter == 3 else {}
    with pytest.raises(FloatingPointError):
        trainer.train()


def test_non_finite_gradient_is_an_error_without_loss_scaler(tmp_path):
    trainer = ToyTrainer(toy_cfg(tmp_path))
    trainer.model.queries.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = trainer.model.queries.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="gradients became infinite or NaN at iteration 0"):
        trainer.train()
    torch.testing.assert_close(trainer.model.queries.weight.detach(), before, rtol=0, atol=0)


def test_data_is_checked_before_a_model_is_built(datasets_root, tmp_path):
    class Unbuilt(ToyTrainer):
        @classmethod
        def build_model(cls, cfg):
            raise AssertionError("built, or downloaded, before the data was checked")

    miniatures.make_miniature("camvid", datasets_root)
    write_values(next((datasets_root / "camvid" / "trainannot").iterdir()), [77])
    cfg = toy_cfg(tmp_path / "run").clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("camvid_sem_seg_train",), ()
    with pytest.raises(ValueError, match="value 77 is out of range"):
        Unbuilt(cfg)


class SignalledToyTrainer(ToyTrainer):
    """Gets a signal in its fifth step, or in the evaluation after the third."""

    def __init__(self, cfg, signum: int, when: str) -> None:
        super().__init__(cfg)
        self.signum, self.when = signum, when

    def run_step(self) -> None:
        if self.when == "step" and self.iter == 4:
            os.kill(os.getpid(), self.signum)
        super().run_step()

    def test(self) -> dict:
        if self.when == "evaluation":
            os.kill(os.getpid(), self.signum)
        return super().test()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("when", "finished"), [("step", 4), ("evaluation", 2)])
def test_signals_save_a_checkpoint_to_resume_from(tmp_path, signum, when, finished):
    trainer = functools.partial(SignalledToyTrainer, signum=signum, when=when)
    with pytest.raises(interrupts.Interrupted) as stop:
        train_toy(tmp_path / "signalled", trainer=trainer, arch="NoisyToySegmentor")
    assert stop.value.signum == signum
    assert (tmp_path / "signalled" / "last_checkpoint").read_text() == f"model_{finished:07d}.pth"
    resumed = train_toy(tmp_path / "signalled", resume=True, arch="NoisyToySegmentor")
    assert_equal_states(resumed, train_toy(tmp_path / "whole", arch="NoisyToySegmentor"))


def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path):
    trainer = functools.partial(SignalledToyTrainer, signum=signal.SIGINT, when="evaluation")
    with pytest.raises(interrupts.Interrupted):
        train_toy(tmp_path, trainer=trainer)
    train_toy(tmp_path, resume=True)
    rows = read_metrics(tmp_path)
    assert [row["iteration"] for row in rows if "sem_seg/mIoU" in row] == [2, 5, 8]
    train_toy(tmp_path, resume=True, MAX_ITER=9)  # now it is known that this one is done
    assert [row["iteration"] for row in read_metrics(tmp_path) if "sem_seg/mIoU" in row][:3] == [2, 5, 9]


def test_a_resumed_run_logs_every_iteration_once(tmp_path):
    with pytest.raises(Interrupted):
        train_toy(tmp_path, trainer=InterruptedToyTrainer)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"iteration": 5, "lo')  # a crash, or a full disk
    train_toy(tmp_path, resume=True)
    assert [row["iteration"] for row in read_metrics(tmp_path)] == list(range(9))


def test_a_signal_in_the_last_step_adds_no_checkpoint(tmp_path):
    trainer = functools.partial(SignalledToyTrainer, signum=signal.SIGTERM, when="step")
    with pytest.raises(interrupts.Interrupted):
        train_toy(tmp_path, trainer=trainer, MAX_ITER=5)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_0000003.pth", "model_final.pth"]
    train_toy(tmp_path, resume=True, MAX_ITER=5)
    assert [row["iteration"] for row in read_metrics(tmp_path) if "sem_seg/mIoU" in row] == [2, 5]


def test_a_signal_in_the_last_evaluation_leaves_the_final_checkpoint(tmp_path):
    trainer = functools.partial(SignalledToyTrainer, signum=signal.SIGINT, when="evaluation")
    with pytest.raises(interrupts.Interrupted):
        train_toy(tmp_path, trainer=trainer, MAX_ITER=2)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
