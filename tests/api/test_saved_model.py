import json
from pathlib import Path

import numpy as np
import pytest
from saved_models import METRICS, mta_clip_config, segmenter, tag_clip_config

import mta_clip
from mta_clip.api import saved_model
from mta_clip.api.saved_model import FILES, is_saved_model, model_card
from mta_clip.config_loader import load_config


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


@pytest.mark.parametrize(
    "cfg", [mta_clip_config(), mta_clip_config(text=False), tag_clip_config()], ids=["mta", "m2f", "tag"]
)
def test_a_saved_model_gives_the_same_scores(cfg, image, tmp_path):
    cfg.MODEL.CLASS_COLORS = [[index, 2, 3] for index in range(len(cfg.MODEL.PROMPT.CLASS_NAMES))]
    model = segmenter(cfg, metrics=METRICS)
    folder = model.save(tmp_path / "new" / "folder")
    loaded = mta_clip.load(folder, device="cpu")
    one, other = model(image), loaded(image)
    assert np.array_equal(one.scores, other.scores) and np.array_equal(one.colors, other.colors)
    assert one.class_names == other.class_names and one.unseen_classes == other.unseen_classes
    assert loaded.metrics == METRICS
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    again = mta_clip.load(loaded.save(tmp_path / "again"), device="cpu")
    assert np.array_equal(one.scores, again(image).scores) and again.metrics == METRICS


def test_nothing_of_the_machine_is_saved(tmp_path):
    cfg = mta_clip_config("MODEL.WEIGHTS", "/home/me/secret.pth", "OUTPUT_DIR", "/home/me/run")
    cfg.DATASETS.FOLDERS = [{"name": "mine", "image_dir": "/home/me/photos"}]
    folder = segmenter(cfg).save(tmp_path / "model")
    assert not any("/home/me" in path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors")
    assert load_config(str(folder / "config.yaml"), []).MODEL.PROMPT.CLASS_NAMES == cfg.MODEL.PROMPT.CLASS_NAMES


def test_a_saved_model_may_be_replaced_and_nothing_else(tmp_path):
    folder = segmenter(mta_clip_config(), metrics=METRICS).save(tmp_path / "model")
    segmenter(mta_clip_config(text=False)).save(folder)
    assert not (folder / "metrics.json").exists()
    assert mta_clip.load(folder).config.MODEL.PROMPT.NAME == ""
    (tmp_path / "empty").mkdir()
    assert is_saved_model(segmenter(mta_clip_config()).save(tmp_path / "empty"))
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "config.yaml").write_text("")
    with pytest.raises(FileExistsError, match="photos holds something else"):
        segmenter(mta_clip_config()).save(photos)
    assert [path.name for path in photos.iterdir()] == ["config.yaml"]
    with pytest.raises(FileExistsError, match="is a file"):
        segmenter(mta_clip_config()).save(photos / "config.yaml")


def test_a_save_that_fails_keeps_the_earlier_model_and_one_that_was_killed_can_be_repeated(tmp_path, monkeypatch):
    folder = segmenter(mta_clip_config(), metrics=METRICS).save(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as disk, pytest.raises(OSError, match="No space"):
        disk.setattr(saved_model, "model_card", full_disk)
        segmenter(mta_clip_config(text=False)).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with monkeypatch.context() as kill, pytest.raises(OSError, match="No space"):  # in the midst of the renames
        rename = Path.replace
        kill.setattr(Path, "replace", lambda old, new: full_disk() if new == folder / FILES[1] else rename(old, new))
        segmenter(mta_clip_config(text=False)).save(folder)
    assert not is_saved_model(folder)
    segmenter(mta_clip_config(text=False)).save(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(set(FILES) - {"metrics.json"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda classes: {**classes, "names": classes["names"][::-1]}, "'names'"),
        (lambda classes: {**classes, "unseen": ["sky"]}, "'unseen'"),
        (lambda classes: {**classes, "ignore_label": 0}, "'ignore_label'"),
        (lambda classes: [], "this JSON file holds"),
    ],
)
def test_classes_that_contradict_the_config_are_refused(change, message, tmp_path):
    folder = segmenter(mta_clip_config()).save(tmp_path / "model")
    path = folder / "classes.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=rf"classes\.json: {message}"):
        mta_clip.load(folder)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"classes\.json: this is not valid JSON"):
        mta_clip.load(folder)


def test_cards_say_what_the_model_knows():
    cfg = mta_clip_config()
    card = model_card(cfg, METRICS, takes_names=True)
    assert card.startswith("---\nlibrary_name: mta-clip\n") and "| sem_seg/mIoU | 48.38 |" in card
    assert "IoU-sky" not in card and ", ".join(cfg.MODEL.PROMPT.CLASS_NAMES) in card
    assert "not pretrained on language" in card
    cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED = "RN50", "openai"
    assert "labels=[...]" in model_card(cfg, {}, takes_names=True) and "without metrics" in model_card(
        cfg, {}, takes_names=True
    )
    assert "| image encoder | CLIP RN50 |" in model_card(cfg, {}, takes_names=True)
    cfg.MODEL.CLIP.IMAGE_NAME = "timm:resnet18"
    assert "| image encoder | timm:resnet18 |" in model_card(cfg, {}, takes_names=True)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    assert "| image encoder | build_resnet_backbone |" in model_card(cfg, {}, takes_names=True)
    card = model_card(mta_clip_config(text=False), {}, takes_names=False)
    assert "| method | Mask2Former |" in card and "knows only its classes" in card
    assert "| held out of training | green square |" in model_card(tag_clip_config(), {}, takes_names=True)
