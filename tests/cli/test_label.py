import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
from dataset_files import write_photos
from PIL import Image
from saved_models import mta_clip_config, segmenter
from toy_predictor import make_config

from mta_clip.cli.main import main
from mta_clip.labelling import job


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


@pytest.fixture
def command(tmp_path, photos, monkeypatch):
    config_file, weights = make_config(tmp_path)
    command = ["label", "--config-file", config_file, "--weights", weights, "--input", str(photos)]
    return [*command, "--output", str(tmp_path / "out")]


@pytest.fixture
def here(monkeypatch):
    """Blocks are labelled in this process."""
    monkeypatch.setattr(job, "run_local", lambda start, blocks, workers: map(start(0), blocks))


def rows_of(tmp_path):
    return pyarrow.parquet.read_table(tmp_path / "out" / "index.parquet").to_pylist()


def test_label_maps_and_index(command, photos, tmp_path, here, caplog):
    caplog.set_level("INFO")
    (photos / "broken.png").write_text("not an image")
    assert main(command) == 0
    labels = np.array(Image.open(tmp_path / "out" / "labels" / "sub" / "a.png.png"))
    assert labels.shape == (20, 30) and labels[:, :11].all() and not labels[:, 13:].any()
    rows = {row["label"]: row for row in rows_of(tmp_path)}
    assert set(rows) == {"labels/a.png.png", "labels/b.jpg.png", "labels/sub/a.png.png", None}
    shares = dict(rows["labels/sub/a.png.png"]["shares"])
    assert sum(shares.values()) == pytest.approx(1) and shares["bright thing"] == pytest.approx(labels.mean())
    assert "3 of 4 images labelled" in caplog.text and "Images that failed: 1;" in caplog.text


def test_other_names_need_another_output(command, photos, tmp_path, here, capsys):
    assert main([*command, "--labels", "night, day"]) == 0
    assert {name for row in rows_of(tmp_path) for name, _ in row["shares"]} == {"night", "day"}
    assert main(command) == 1
    assert "with other settings (names)" in capsys.readouterr().err


def test_pixels_that_no_name_fits(command, tmp_path, here, capsys):
    torch.save({"model": {"threshold": torch.tensor(20.0)}}, command[4])  # the dark half is neither dark nor bright
    assert main(command) == 0
    assert main([*command, "--other", "rest"]) == 1
    assert "with other settings (other)" in capsys.readouterr().err
    (tmp_path / "out").rename(tmp_path / "before")
    assert main([*command, "--other", "rest", "--threshold", "0.5"]) == 0
    shares = next(dict(row["shares"]) for row in rows_of(tmp_path) if row["label"] == "labels/a.png.png")
    assert shares.keys() == {"bright thing", "rest"} and 0.5 < shares["rest"] < 0.7
    assert np.array(Image.open(tmp_path / "out" / "labels" / "a.png.png"))[:, 13:].min() == 2


@pytest.mark.parametrize("option", ["--workers", "--batch-size"])
def test_numbers_are_positive(command, option, capsys):
    with pytest.raises(SystemExit):
        main([*command, option, "0"])
    assert "0 is not positive" in capsys.readouterr().err


def test_without_pyarrow(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert main(command) == 1
    assert "pip install 'mta-clip[scale]'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes(photos, tmp_path):
    saved = segmenter(mta_clip_config()).save(tmp_path / "saved")
    command = ["label", "--config-file", str(saved), "--input", str(photos), "--output", str(tmp_path / "out")]
    assert main([*command, "--workers", "2", "--block-size", "1", "MODEL.DEVICE", "cpu"]) == 0
    assert [row["status"] for row in rows_of(tmp_path)] == ["ok"] * 3
