import csv
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from scripts import load_script

import mta_clip
from mta_clip.config import get_cfg

TRUTH = np.zeros((20, 30), np.uint8)
TRUTH[:, 15:] = 1
TRUTH[:2] = 255
FIRST = TRUTH % 2 * 1  # right in each pixel that counts, but
FIRST[10:16, 2:8] = 1  # for a spot of 36 pixels inside a region
SECOND = TRUTH % 2 * 1
SECOND[2:, 14] = 1  # and for a column of 18 pixels at the border


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/compare_models.py")


@pytest.fixture
def comparison(tool):
    truth = np.where(TRUTH == 255, tool.IGNORED, TRUTH.astype(np.int64))
    return tool.Comparison("a.png", np.zeros((20, 30, 3), np.uint8), truth, FIRST.astype(int), SECOND.astype(int))


@pytest.fixture
def dataset(tmp_path):
    Image.fromarray(TRUTH).save(tmp_path / "label.png")
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "image.png")
    record = {"file_name": str(tmp_path / "image.png"), "sem_seg_file_name": str(tmp_path / "label.png")}
    DatasetCatalog.register("compared", lambda: [record])
    MetadataCatalog.get("compared").set(stuff_classes=["left", "right"], ignore_label=255)
    yield "compared"
    DatasetCatalog.remove("compared")
    MetadataCatalog.remove("compared")


def segmenter(labels, names=("left", "right")):
    class Fake:
        class_names, config = names, get_cfg()

        def __call__(self, image, *, scores):
            assert image.shape == (20, 30, 3) and not scores
            return SimpleNamespace(labels=labels.astype(np.int64))

    return Fake()


def test_gains_and_losses(tool, comparison):
    assert (comparison.gain == 1).sum() == 36 and (comparison.gain == -1).sum() == 18
    share, rows, columns = comparison.best_window(1)  # of 6 x 6 pixels
    assert (share, rows, columns) == (1.0, slice(10, 16), slice(2, 8))
    share, rows, columns = comparison.best_window(-1)
    assert share == 1 / 6 and columns.start <= 14 < columns.stop and rows.stop - rows.start == 6


def test_boundaries_and_regions_are_counted_apart(tool, comparison):
    band = comparison.band(0.05)
    border, inside = tool.Totals(), tool.Totals()
    border.add(comparison, band)
    inside.add(comparison, ~band & (comparison.truth != tool.IGNORED))
    assert border.pixels + inside.pixels == 18 * 30
    assert (border.spoiled, border.corrected, inside.spoiled, inside.corrected) == (18, 0, 0, 36)
    assert border.first_right == border.pixels and inside.first_right == inside.pixels - 36
    assert inside.row()[1] == "100.00"


def test_the_command(tool, dataset, tmp_path, monkeypatch, capsys):
    models = {"a": segmenter(FIRST), "b": segmenter(SECOND), "c": segmenter(FIRST, ("left", "top"))}
    monkeypatch.setattr(mta_clip, "load", models.__getitem__)
    registered = []
    monkeypatch.setattr(tool, "register_folders", registered.append)
    output = tmp_path / "out"
    assert tool.main(["a", "b", "--dataset", dataset, "--output", str(output), "--names", "A", "B"]) == 0
    printed = capsys.readouterr().out
    assert registered == [models["a"].config]  # own photos are known by the config of their model
    assert "A right %" in printed and "inside regions" in printed
    (line,) = csv.DictReader((output / "images.csv").open())
    assert (line["corrected pixels"], line["spoiled pixels"]) == ("36", "18")
    for name in ("better.png", "worse.png"):
        assert Image.open(output / name).width > 4 * tool.SHOWN
    assert tool.main(["a", "c", "--dataset", dataset, "--output", str(output)]) == 1
    assert "a model ['left', 'top']" in capsys.readouterr().err
    assert tool.main(["a", "b", "--dataset", "nowhere", "--output", str(output)]) == 1
    assert "nowhere" in capsys.readouterr().err
