"""Exported files against the models in PyTorch: the same scores for other sizes and batches than those traced."""

import logging
import re
import subprocess
import sys

import numpy as np
import pytest
from exported import (
    NAMES,
    OTHER_NAMES,
    check_close,
    eager,
    name_tensors,
    onnxruntime_runner,
    openvino_runner,
    random_images,
    tiny,
    torch_runner,
)
from PIL import Image
from scripts import ROOT
from timm.layers import Conv2dSame

from mta_clip.export import describe, export_model
from mta_clip.export import model as export_module
from mta_clip.export.formats import EXTRAS, SUFFIXES

RUNNERS = {"onnx": (onnxruntime_runner, openvino_runner), "torch": (torch_runner,), "openvino": (openvino_runner,)}
BATCHES = ((1, (70, 133)), (3, (64, 96)))


def exported(tmp_path, name, format, **options):
    """Model and files; skips if a library is missing."""
    for module in EXTRAS[format]:
        pytest.importorskip(module, reason=f"pip install 'mta-clip[{format}]'")
    model, cfg = tiny(name)
    return model, export_model(model, cfg, tmp_path / f"model{SUFFIXES[format]}", format=format, **options)


def check_closed(model, path, format, batches=BATCHES):
    for runner in RUNNERS[format]:
        run = runner(path)
        for count, size in batches:
            images = random_images(count, size)
            check_close(run(images)[0], eager(model, images))


def check_open(model, files, format, batches=BATCHES):
    """Features of images are computed once, for two lists of names."""
    first, second = (file for file in files if file.suffix == SUFFIXES[format])
    for runner in RUNNERS[format]:
        features_of, scores_of = runner(first), runner(second)
        for count, size in batches:
            images = random_images(count, size)
            features = features_of(images)
            for names in (OTHER_NAMES, OTHER_NAMES[2:5]):
                model.set_vocabulary(names)
                check_close(scores_of(images, *features, *name_tensors(model, names))[0], eager(model, images))


def test_tag_clip_of_any_size(tmp_path):
    model, files = exported(tmp_path, "TagCLIP", "onnx")
    check_closed(model, files[0], "onnx")
    check_script_of_the_docs(model, files[0], tmp_path)


def check_script_of_the_docs(model, path, folder):
    """It needs nothing but the file and a photo."""
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    script = re.search(r"```python\n(import json, sys\n.*?)```", text, re.DOTALL)[1]
    (folder / "segment.py").write_text(script, encoding="utf-8")
    images = random_images(1, (70, 133))
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(folder / "photo.png")
    command = [sys.executable, "segment.py", path, "photo.png"]
    printed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    labels = np.asarray(Image.open(folder / "labels.png"))
    assert (labels == eager(model, images)[0].argmax(0).numpy()).mean() > 0.999
    names = [NAMES[label] for label in np.unique(labels)]
    assert [line.split("%  ")[1] for line in printed.splitlines()] == names


def test_mta_clip_of_a_fixed_size(tmp_path):
    model, files = exported(tmp_path, "MTACLIP", "onnx", size=(64, 72), returns="labels")
    for runner in RUNNERS["onnx"]:
        for count in (1, 3):
            images = random_images(count, (64, 72))
            labels, wanted = runner(files[0])(images)[0], eager(model, images).argmax(1)
            assert labels.shape == wanted.shape and (labels == wanted).float().mean() > 0.999


@pytest.mark.parametrize(("names", "wanted"), [(None, OTHER_NAMES), (NAMES, NAMES)])
def test_names_in_use_are_exported_unless_others_are_given(names, wanted, tmp_path, monkeypatch):
    model, cfg = tiny("TagCLIP")
    model.set_vocabulary(OTHER_NAMES)
    graphs = []
    monkeypatch.setattr(export_module, "trace", lambda graph, *_: graphs.append(graph))
    monkeypatch.setattr(export_module, "write_graph", lambda format, program, path, about, **_: about)
    about = export_model(model, cfg, tmp_path / "model.pt2", format="torch", names=names)
    assert about["class_names"] == wanted and graphs[0].parts.text.shape[0] == len(wanted)
    assert model.vocabulary == OTHER_NAMES


@pytest.mark.parametrize("names", [None, NAMES])
def test_given_names_are_compared_as_text_even_if_they_are_those_of_training(names, tmp_path, monkeypatch):
    model, cfg = tiny("MTACLIP")
    used = []
    monkeypatch.setattr(export_module, "ClosedGraph", lambda model, **_: used.append(model.vocabulary))
    monkeypatch.setattr(export_module, "trace", lambda *_: None)
    monkeypatch.setattr(export_module, "write_graph", lambda *_, **__: [])
    export_model(model, cfg, tmp_path / "model.pt2", format="torch", names=names)
    assert used == [names]  # without a vocabulary, the classifier of the config decides


@pytest.mark.slow
@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("name", ["MTACLIP", "Mask2Former", "TagCLIP"])
def test_closed_files(name, format, tmp_path):
    model, files = exported(tmp_path, name, format)
    check_closed(model, files[0], format)


@pytest.mark.slow
@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("name", ["MTACLIP", "TagCLIP"])
def test_open_files(name, format, tmp_path):
    model, files = exported(tmp_path, name, format, vocabulary="open", names=OTHER_NAMES)
    assert np.load(files[-1])["names"].tolist() == OTHER_NAMES
    check_open(model, files, format)


def test_the_description_has_what_a_program_needs():
    _, cfg = tiny("TagCLIP")
    cfg.MODEL.CLASS_COLORS = [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]
    cfg.TEST.SLIDING_WINDOW.ENABLED = True
    about = describe(cfg, names=["red car", "sky"], returns="labels", size=(64, 96))
    assert about["class_names"] == ["red car", "sky"] and about["class_colors"] == [[255, 0, 0], [0, 0, 0]]
    assert about["unseen_classes"] == ["sky"]
    assert about["size"] == [64, 96] and about["min_size"] == cfg.INPUT.MIN_SIZE_TEST
    assert about["pixel_mean"] == list(cfg.MODEL.PIXEL_MEAN)
    assert about["sliding_window"]["size"] == list(cfg.TEST.SLIDING_WINDOW.SIZE)
    about = describe(cfg, names=OTHER_NAMES, returns="scores", size=None)
    assert about["class_colors"] == [] and about["unseen_classes"] == ["a cat", "sky", "grass", "moon"]
    assert about["size"] is None
    about = describe(cfg, names=["Red Car;auto", "SKY"], returns="scores", size=None)
    assert about["unseen_classes"] == ["SKY"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": "open"}, "compares masks with text; this one has none"),
        ({"names": ["a cat"]}, "not learned to compare masks with text"),
        ({"size": (0, 64)}, r"height and width in pixels, both positive, got \(0, 64\)"),
        ({"size": (64,)}, "height and width in pixels"),
        ({"returns": "masks"}, "unknown returns 'masks': one of scores, labels"),
        ({"vocabulary": "own"}, "unknown vocabulary 'own': one of closed, open"),
    ],
)
def test_wrong_options_are_refused(options, message, tmp_path):
    model, cfg = tiny("Mask2Former")
    with pytest.raises(ValueError, match=message):
        export_model(model, cfg, tmp_path / "model.pt2", format="torch", **options)
    assert list(tmp_path.iterdir()) == []


def test_synonyms_are_refused_also_in_the_vocabulary_in_use(tmp_path):
    model, cfg = tiny("TagCLIP")
    model.set_vocabulary(["cat;kitten", "sky"])
    with pytest.raises(ValueError, match="one text per name"):
        export_model(model, cfg, tmp_path / "model.pt2", format="torch")


def test_a_free_size_is_refused_where_layers_pad_by_size(tmp_path):
    model, cfg = tiny("Mask2Former")
    model.backbone.extra = Conv2dSame(3, 3, 3, stride=2)
    with pytest.raises(ValueError, match=r"pads by the size of its input \(Conv2dSame.*--size H W"):
        export_model(model, cfg, tmp_path / "model.pt2", format="torch")
    assert list(tmp_path.iterdir()) == []


def test_what_stays_outside_is_said(tmp_path, caplog):
    model, cfg = tiny("Mask2Former")
    cfg.TEST.SLIDING_WINDOW.ENABLED = True
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="this one has none"):
        export_model(model, cfg, tmp_path / "model.pt2", format="torch", vocabulary="open")
    assert "windows and augmentation" in caplog.text
