import pytest
from saved_models import METRICS, mta_clip_config, segmenter

from mta_clip.app import models as app_models
from mta_clip.app.models import Models, describe, short_names


def test_names_are_short_and_differ():
    assert short_names(["output/demo"]) == ["demo"]
    assert short_names(["a/run", "b/run", "c/other"]) == ["a/run", "b/run", "c/other"]
    with pytest.raises(ValueError, match="named twice"):
        short_names(["a/run", "a/run"])


def test_models_are_loaded_once_and_when_needed(monkeypatch):
    loaded = []
    monkeypatch.setattr(app_models, "load", lambda source, overrides: loaded.append((source, overrides)) or source)
    models = Models(["x/a", "x/b"], ["MODEL.DEVICE", "cpu"])
    assert loaded == [("x/a", ["MODEL.DEVICE", "cpu"])] and models.names == ["a", "b"]
    assert [models["b"], models["b"], models["a"]] == ["x/b", "x/b", "x/a"] and len(loaded) == 2


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        Models([str(tmp_path / "gone")])


def test_descriptions(mta, tag):
    assert describe(mta) == "MTA-CLIP · 4 classes · on cpu"
    assert describe(tag).startswith("TagCLIP · 3 classes")
    blind = segmenter(mta_clip_config(text=False), metrics=METRICS)
    assert describe(blind) == "Mask2Former · 4 classes · on cpu · 48.4 mIoU"
