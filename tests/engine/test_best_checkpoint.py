"""What is kept and what is refused; whole runs, resumed ones too, are tested with the trainer."""

import logging

import pytest
import torch
from torch import nn
from toy_training import toy_cfg

from mta_clip.checkpoint import SegmentationCheckpointer
from mta_clip.engine.best_checkpoint import BestCheckpoint, build_best_checkpoint
from mta_clip.engine.run_folder import BEST_CHECKPOINT

METRIC = "sem_seg/mIoU"


def results(value: float) -> dict:
    return {"sem_seg": {"fwIoU": 1.0, "mIoU": value, "IoU-sky": 2.0}}


def keeper(folder, metric: str = METRIC) -> BestCheckpoint:
    checkpointer = SegmentationCheckpointer(nn.Linear(1, 1), str(folder), config="A: 1")
    return BestCheckpoint(checkpointer=checkpointer, metric=metric)


def saved(folder) -> dict:
    return torch.load(folder / BEST_CHECKPOINT, weights_only=True)["best"]


def test_only_higher_values_are_saved(tmp_path, caplog):
    best = keeper(tmp_path)
    with caplog.at_level(logging.INFO):
        for iterations, value in enumerate([float("nan"), 3.0, 2.0, 3.0, float("nan"), 4.0]):
            best.update(results(value), iterations)
    assert saved(tmp_path) == {"metric": METRIC, "value": 4.0, "iterations": 5}
    assert f"Best {METRIC}: 3.0000 after 1 iterations" in caplog.text
    assert f"{METRIC} is 2.0000; the best stays 3.0000" in caplog.text


def test_the_file_is_one_for_model_weights(tmp_path):
    best, other = keeper(tmp_path), nn.Linear(1, 1)
    best.update(results(1.0), 1)
    SegmentationCheckpointer(other).load(str(tmp_path / BEST_CHECKPOINT))
    assert torch.equal(other.weight, best.checkpointer.model.weight)
    assert torch.load(tmp_path / BEST_CHECKPOINT, weights_only=True)["config"] == "A: 1"
    (only,) = tmp_path.iterdir()  # no last_checkpoint, which --resume would take
    assert only.name == BEST_CHECKPOINT


def test_a_resumed_run_starts_from_the_best_of_its_metric(tmp_path, caplog):
    keeper(tmp_path).update(results(3.0), 7)
    same, other = keeper(tmp_path), keeper(tmp_path, "sem_seg/fwIoU")
    with caplog.at_level(logging.INFO):
        same.restore()
        other.restore()
    assert f"Best {METRIC} so far: 3.0000 after 7 iterations" in caplog.text
    assert "not by sem_seg/fwIoU" in caplog.text
    same.update(results(2.0), 8)
    assert saved(tmp_path)["value"] == 3.0
    other.update(results(2.0), 8)
    assert saved(tmp_path)["metric"] == "sem_seg/fwIoU"


def test_an_unknown_metric_is_an_error_with_the_known_ones(tmp_path):
    with pytest.raises(KeyError, match=r"'mIoU', but the evaluation gives sem_seg/fwIoU, sem_seg/mIoU \(and 1 values"):
        keeper(tmp_path, "mIoU").update(results(1.0), 1)


@pytest.mark.parametrize(("metric", "datasets"), [("", ()), (METRIC, ()), (METRIC, ("toy",))])
def test_from_a_config(tmp_path, caplog, metric, datasets):
    cfg = toy_cfg(tmp_path).clone()
    cfg.defrost()
    cfg.TEST.KEEP_BEST, cfg.DATASETS.TEST, cfg.TEST.EVAL_PERIOD = metric, datasets, 0
    checkpointer = SegmentationCheckpointer(nn.Linear(1, 1), str(tmp_path))
    if metric and not datasets:
        with pytest.raises(ValueError, match=r"DATASETS\.TEST is empty, so that nothing is evaluated"):
            build_best_checkpoint(cfg, checkpointer)
        return
    best = build_best_checkpoint(cfg, checkpointer)
    assert (best.metric if best else "") == metric
    assert ("only the final model to choose from" in caplog.text) == bool(metric)
