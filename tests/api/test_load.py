import json
import shutil

import numpy as np
import pytest
import torch
from saved_models import METRICS, mta_clip_config, segmenter, write_run

from mta_clip.api.load import load
from mta_clip.checkpoint import CheckpointError
from mta_clip.config_loader import load_config
from mta_clip.data import with_classes


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


@pytest.fixture
def run_folder(tmp_path):
    folder = write_run(tmp_path / "run", mta_clip_config())
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


@pytest.fixture(scope="module")
def expected(image):
    return segmenter(mta_clip_config())(image).scores


def test_every_source_gives_the_same_model(run_folder, image, expected, tmp_path):
    weights = run_folder / "model_final.pth"
    saved = load(run_folder).save(tmp_path / "saved")
    for model in (
        load(run_folder),
        load(str(run_folder), weights=weights),
        load(weights),
        load(run_folder / "config.yaml", weights=weights),
        load(saved),
        load(saved / "model.safetensors"),
    ):
        assert np.array_equal(model(image).scores, expected)
        assert model.metrics == METRICS


def test_a_moved_run_needs_nothing_else(run_folder, image, expected, tmp_path, monkeypatch):
    shutil.move(run_folder, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(load("elsewhere")(image).scores, expected)


def test_the_last_checkpoint_of_a_run_counts(run_folder, caplog):
    caplog.set_level("INFO")
    content = torch.load(run_folder / "model_final.pth", weights_only=True)
    content["model"] = {name: value + 1 for name, value in content["model"].items()}
    torch.save(content, run_folder / "model_0000009.pth")
    (run_folder / "last_checkpoint").write_text("model_0000009.pth")
    name, value = next(iter(content["model"].items()))
    model = load(run_folder)
    assert f"Loading from {run_folder / 'model_0000009.pth'}" in caplog.text
    assert torch.equal(model._model.state_dict()[name], value)
    assert model.metrics == {}  # they are of the final checkpoint
    (run_folder / "last_checkpoint").unlink()
    assert not torch.equal(load(run_folder)._model.state_dict()[name], value)


def test_a_checkpoint_without_config_takes_the_one_beside_it(run_folder, image, expected):
    weights = run_folder / "model_final.pth"
    content = torch.load(weights, weights_only=True)
    torch.save({"model": content["model"]}, weights)
    assert np.array_equal(load(weights)(image).scores, expected)
    (run_folder / "config.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"model_final\.pth holds no config"):
        load(weights)
    with pytest.raises(FileNotFoundError, match=r"config\.yaml does not exist"):
        load(run_folder)


def test_configs_of_the_package_go_by_name(tmp_path):
    cfg = with_classes(load_config("shapes/mta_clip_tiny", []))
    weights = write_run(tmp_path / "run", cfg) / "model_final.pth"
    model = load("shapes/mta_clip_tiny", weights=weights)
    assert "striped blue ring" in model.class_names
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty.*weights=\.\.\."):
        load("shapes/mta_clip_tiny")


def test_device_and_overrides(run_folder, image):
    (run_folder / "config.yaml").write_text(mta_clip_config("MODEL.DEVICE", "cuda", "MODEL.COMPILE", True).dump())
    model = load(run_folder, device="cpu", overrides=["INPUT.MIN_SIZE_TEST", 32])
    assert model.config.MODEL.DEVICE == "cpu" and not model.config.MODEL.COMPILE
    assert model._predictor.resized(image).shape == (3, 32, 40)
    assert load(run_folder, overrides=["MODEL.COMPILE", True]).config.MODEL.COMPILE
    assert ("cuda" if torch.cuda.is_available() else "cpu") == load(run_folder).config.MODEL.DEVICE


def test_wrong_sources(run_folder, tmp_path):
    for source in (tmp_path / "gone", tmp_path / "gone.pth", "gone.pth", "a/b/c"):
        with pytest.raises(FileNotFoundError, match=r"does not exist\. A model is"):
            load(source)
    with pytest.raises(ValueError, match=r"weights=\.\.\."):
        load(run_folder / "config.yaml")
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml"):
        load(tmp_path / "gone.yaml", weights="x.pth")
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        load(run_folder, weights="gone.pth")
    (run_folder / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(FileNotFoundError, match=r"model_0000009\.pth does not exist"):
        load(run_folder)
    (tmp_path / "notes.txt").write_text("not a model")
    with pytest.raises(CheckpointError, match=r"notes\.txt"):
        load(tmp_path / "notes.txt")
