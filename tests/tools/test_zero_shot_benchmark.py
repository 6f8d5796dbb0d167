import json

import pytest
import torch
from scripts import load_script


@pytest.fixture
def tool():
    return load_script("tools/zero_shot_benchmark.py")


class FakeTrainer:
    """Notes how it was called instead of training."""

    made: list = []  # noqa: RUF012

    def __init__(self, cfg):
        self.cfg = cfg
        self.model = type("Model", (), {})()
        self.made.append(self)

    def resume_or_load(self, *, resume):
        self.resume = resume

    def train(self):
        pass


@pytest.fixture
def runs(tool, monkeypatch):
    """Trainers and evaluations that the tool asked for, as two lists."""
    evaluations = []

    def evaluate(cfg, model, *, subfolder):
        evaluations.append((tuple(cfg.DATASETS.TEST), model.trusty_eval, subfolder))
        return {"sem_seg": {name: float(len(evaluations)) for name in (*tool.METRICS, "other")}}

    monkeypatch.setattr(FakeTrainer, "made", [])
    monkeypatch.setattr(tool, "Trainer", FakeTrainer)
    monkeypatch.setattr(tool, "evaluate", evaluate)
    return FakeTrainer.made, evaluations


CONFIG = "configs/shapes/tagclip_inductive.yaml"


def test_one_training_serves_all_variants_with_its_token(tool, runs, tmp_path):
    results = tool.run(CONFIG, 3, True, tmp_path / "run", [])
    (trainer,), evaluations = runs
    assert trainer.resume and trainer.cfg.SEED == 3 and trainer.cfg.MODEL.TAGCLIP.TRUSTY_TOKEN
    assert [weighting for _, weighting, _ in evaluations] == ["none", "unseen", "both"]
    assert all(datasets == ("shapes_sem_seg_val",) for datasets, _, _ in evaluations)
    assert list(results) == [name for name, (token, _) in tool.VARIANTS.items() if token]
    assert all(list(metrics) == list(tool.METRICS) for metrics in results.values())


def test_the_seed_is_that_of_the_initial_weights_too(tool, monkeypatch, tmp_path):
    drawn = []

    def trainer(cfg):
        drawn.append(torch.rand(()).item())
        return FakeTrainer(cfg)

    monkeypatch.setattr(tool, "Trainer", trainer)
    monkeypatch.setattr(tool, "evaluate", lambda *_, **__: {"sem_seg": dict.fromkeys(tool.METRICS, 0.0)})
    for index, seed in enumerate((3, 3, 4)):
        tool.run(CONFIG, seed, False, tmp_path / str(index), [])
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_is_done_is_not_repeated(tool, runs, tmp_path):
    first = tool.run(CONFIG, 3, False, tmp_path / "run", [])
    assert tool.run(CONFIG, 3, False, tmp_path / "run", []) == first
    assert len(runs[0]) == len(runs[1]) == 1 and not runs[0][0].cfg.MODEL.TAGCLIP.TRUSTY_TOKEN


def test_the_command_writes_results_and_a_table(tool, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tool", "--config-file", CONFIG, "--output", str(tmp_path), "--seeds", "1", "2"])
    assert tool.main() == 0
    assert [trainer.cfg.SEED for trainer in runs[0]] == [1, 1, 2, 2]
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: len(runs) for name, runs in results.items()} == dict.fromkeys(tool.VARIANTS, 2)
    shown = capsys.readouterr().out
    assert all(f"| {name} |" in shown for name in tool.VARIANTS)


def test_table_has_mean_and_deviation(tool):
    row = dict.fromkeys(tool.METRICS, 10.0)
    one = tool.table({"a": [row]}).splitlines()
    assert one[0] == "| variant | mIoU_seen | mIoU_unseen | hIoU | pACC |"
    assert one[2] == "| a | 10.0 | 10.0 | 10.0 | 10.0 |"
    assert "| 11.0 ± 1.4 |" in tool.table({"a": [row, dict.fromkeys(tool.METRICS, 12.0)]})
