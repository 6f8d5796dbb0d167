import logging
import random

import numpy as np
import pytest
import torch
import yaml

from mta_clip.config_loader import load_config
from mta_clip.engine.setup import _environment, save_config, setup


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump({"SOLVER": {"MAX_ITER": 12}, "MODEL": {"DEVICE": "cpu"}, "SEED": 5}))
    return path


@pytest.fixture
def config(config_file, tmp_path):
    def load(*overrides: str):
        return load_config(str(config_file), [*overrides, "OUTPUT_DIR", str(tmp_path / "new" / "out")])

    return load


def test_setup_freezes_the_config_and_logs(config, tmp_path):
    cfg = setup(config(), training=True)
    assert cfg.is_frozen()
    save_config(cfg)
    saved = load_config(str(tmp_path / "new" / "out" / "config.yaml"), [])
    assert yaml.safe_load(saved.dump()) == yaml.safe_load(cfg.dump())
    log = (tmp_path / "new" / "out" / "log.txt").read_text()
    assert "on cpu" in log
    assert "Effective batch 16" in log


def test_setup_seeds_every_generator(config):
    draws = []
    for _ in range(2):
        setup(config(), training=True)
        draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert draws[0] == draws[1]


def test_evaluation_does_not_scale_the_schedule(config):
    cfg = config("SOLVER.SCALE_TO_BATCH", "True", "SOLVER.IMS_PER_BATCH", "8")
    assert setup(cfg, training=True).SOLVER.MAX_ITER == 24
    assert setup(cfg, training=False).SOLVER.MAX_ITER == 12


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_a_misspelt_dataset_is_found_before_anything_is_written(config, key, tmp_path):
    with pytest.raises(KeyError, match=r"'camvid_sem_seg_trian' is not registered.*mean camvid_sem_seg_train"):
        setup(config(f"DATASETS.{key}", "('camvid_sem_seg_trian',)"), training=True)
    assert not (tmp_path / "new").exists()


def test_overwriting_deletes_the_earlier_run_unless_this_is_a_restart_of_it(config, tmp_path, monkeypatch):
    checkpoint = tmp_path / "new" / "out" / "model_final.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    setup(config(), training=True, overwrite=True)
    assert checkpoint.exists()
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    setup(config(), training=True, overwrite=True)
    assert not checkpoint.exists()


def test_tracebacks_go_to_the_log_file_only(config, tmp_path, capsys):
    setup(config(), training=True)
    try:
        raise ValueError("what went wrong")
    except ValueError:
        logging.getLogger("detectron2.engine.train_loop").exception("Exception during training:")
    assert "Exception during training" not in capsys.readouterr().out
    assert "what went wrong" in (tmp_path / "new" / "out" / "log.txt").read_text()


def test_a_gpu_is_named_in_the_log(config, monkeypatch):
    cfg = setup(config(), training=True)
    cfg.defrost()
    cfg.MODEL.DEVICE = "cuda"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a fast one")
    assert "on cuda (a fast one)" in _environment(cfg)
