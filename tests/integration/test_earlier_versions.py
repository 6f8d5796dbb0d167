"""Runs of earlier versions, in tests/compat/VERSION/, load, give the same numbers and train on."""

import gzip
import shutil

import numpy as np
import open_clip
import pytest
import torch
from scripts import ROOT

import mta_clip
from mta_clip.cli.main import main
from mta_clip.config_loader import load_config

COMPAT = ROOT / "tests" / "compat"
RUNS = sorted(path.parent.relative_to(COMPAT).as_posix() for path in COMPAT.glob("*/*/config.yaml"))
open_clip.add_model_config(COMPAT / "model_configs")


def test_there_are_runs_of_every_model():
    assert {"0.1/mask2former", "0.1/mta_clip", "0.1/tagclip"} <= set(RUNS)


@pytest.fixture(params=RUNS)
def run(request, tmp_path, monkeypatch):
    """The name of a run, in a folder like the one that it was trained in, which becomes the working directory."""
    version, model = request.param.split("/")
    shutil.copytree(COMPAT / version, tmp_path / version)
    monkeypatch.chdir(tmp_path / version)
    packed = tmp_path / version / model / "model_final.pth.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    return model


def assert_same_scores(model, run):
    expected = np.load(f"{run}/scores.npz")["scores"]
    np.testing.assert_allclose(model("images/0.png").scores, expected, rtol=1e-3, atol=1e-5)
    assert expected.std() > 1e-3  # else any model would pass


def test_the_run_and_its_checkpoint_alone_give_the_same_scores(run):
    assert_same_scores(mta_clip.load(run), run)
    shutil.move(f"{run}/model_final.pth", "alone.pth")
    assert_same_scores(mta_clip.load("alone.pth"), run)


def test_the_config_keeps_its_values(run):
    cfg = load_config(f"{run}/config.yaml", [])
    assert cfg.SOLVER.MAX_ITER == 2 and cfg.SOLVER.BASE_LR == 0.01 and run == cfg.OUTPUT_DIR
    assert cfg.MODEL.PROMPT.CLASS_NAMES == ["red car", "sky; cloud", "tree"]
    assert list(cfg.INPUT.CROP.SIZE) == [32, 32]


def test_training_goes_on(run, capfd):
    before = torch.load(f"{run}/model_final.pth", weights_only=True)
    assert main(["train", "--config-file", run, "--resume", "SOLVER.MAX_ITER", "3"]) == 0
    after = torch.load(f"{run}/model_final.pth", weights_only=True)
    assert (before["iteration"], after["iteration"]) == (1, 2)
    assert before["model"].keys() == after["model"].keys()
