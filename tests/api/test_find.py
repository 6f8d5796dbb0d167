import json

import pytest
import torch
from saved_models import mta_clip_config, segmenter, write_run

from mta_clip.api.find import config_of_checkpoint, find_model


@pytest.fixture
def run(tmp_path):
    """A run whose best checkpoint is not its last one."""
    folder = write_run(tmp_path / "run", mta_clip_config("SEED", 7))
    (folder / "model_best.pth").write_bytes((folder / "model_final.pth").read_bytes())
    return folder


def without_config(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({"model": content["model"]}, checkpoint)
    return checkpoint


def found(source, **options):
    cfg = find_model(source, **options)
    return cfg.MODEL.WEIGHTS, cfg.SEED


def test_folders(run, tmp_path, caplog):
    caplog.set_level("INFO")
    assert found(run) == (str(run / "model_final.pth"), 7)
    assert f"model_final.pth is the last checkpoint; for the best one, name {run / 'model_best.pth'}" in caplog.text
    saved = segmenter(mta_clip_config("SEED", 7)).save(tmp_path / "saved")
    assert found(saved) == (str(saved / "model.safetensors"), 7)


def test_checkpoints_hold_their_config_or_have_it_beside_them(run):
    for name in ("model_final.pth", "model_best.pth"):
        assert found(run / name) == (str(run / name), 7)
    bare = without_config(run / "model_best.pth")
    assert found(bare, overrides=["SEED", 8]) == (str(bare), 8)
    (run / "config.yaml").unlink()
    assert found(run / "model_final.pth") == (str(run / "model_final.pth"), 7)
    assert config_of_checkpoint(bare) is None
    with pytest.raises(FileNotFoundError, match=r"model_best\.pth holds no config, .* no config\.yaml beside it"):
        find_model(bare)


def test_named_weights_come_first(run):
    best = str(run / "model_best.pth")
    assert found(run, weights=best) == (best, 7)
    assert found(run, overrides=["MODEL.WEIGHTS", best]) == (best, 7)
    assert found(run / "config.yaml", weights=best) == (best, 7)
    assert found(run, weights=best, overrides=["MODEL.WEIGHTS", "other.pth"]) == (best, 7)


def test_a_config_may_name_no_weights(run):
    assert found(run / "config.yaml") == ("", 7)


def test_a_saved_model_whose_classes_contradict_its_config(tmp_path):
    saved = segmenter(mta_clip_config()).save(tmp_path / "saved")
    classes = json.loads((saved / "classes.json").read_text())
    (saved / "classes.json").write_text(json.dumps(classes | {"names": ["sky"]}))
    with pytest.raises(ValueError, match=r"classes\.json: 'names' is \['sky'\]"):
        find_model(saved)
