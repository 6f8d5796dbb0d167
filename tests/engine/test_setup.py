import argparse
import random

import numpy as np
import pytest
import torch
import yaml

from mta_clip.config_loader import load_config
from mta_clip.engine.setup import _environment, setup


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump({"SOLVER": {"MAX_ITER": 12}, "MODEL": {"DEVICE": "cpu"}, "SEED": 5}))
    return path


@pytest.fixture
def arguments(config_file, tmp_path):
    def parse(*overrides: str):
        opts = [*overrides, "OUTPUT_DIR", str(tmp_path / "new" / "out")]
        return argparse.Namespace(config_file=str(config_file), opts=opts)

    return parse


def test_setup_saves_the_config_and_freezes_it(arguments, tmp_path):
    cfg = setup(arguments(), training=True)
    assert cfg.is_frozen()
    saved = load_config(str(tmp_path / "new" / "out" / "config.yaml"), [])
    assert yaml.safe_load(saved.dump()) == yaml.safe_load(cfg.dump())
    log = (tmp_path / "new" / "out" / "log.txt").read_text()
    assert "on cpu" in log
    assert "Effective batch 16" in log


def test_setup_seeds_every_generator(arguments):
    draws = []
    for _ in range(2):
        setup(arguments(), training=True)
        draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert draws[0] == draws[1]


def test_evaluation_does_not_scale_the_schedule(arguments):
    overrides = ("SOLVER.SCALE_TO_BATCH", "True", "SOLVER.IMS_PER_BATCH", "8")
    assert setup(arguments(*overrides), training=True).SOLVER.MAX_ITER == 24
    assert setup(arguments(*overrides), training=False).SOLVER.MAX_ITER == 12


def test_a_gpu_is_named_in_the_log(arguments, monkeypatch):
    cfg = setup(arguments(), training=True)
    cfg.defrost()
    cfg.MODEL.DEVICE = "cuda"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a fast one")
    assert "on cuda (a fast one)" in _environment(cfg)
