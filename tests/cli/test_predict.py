from pathlib import Path

import numpy as np
import pytest
import torch
from clips import bar_frames, read_clip, write_clip
from dataset_files import write_photos
from PIL import Image
from saved_models import mta_clip_config, segmenter
from toy_predictor import make_config

from mta_clip.cli.main import main
from mta_clip.visualization import distinct_colors


def predict(arguments):
    return main(["predict", *arguments])


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


@pytest.fixture
def command(tmp_path):
    config_file, weights = make_config(tmp_path)
    return ["--config-file", config_file, "--weights", weights, "--output", str(tmp_path / "out")]


def test_pictures_of_all_images(photos, command, tmp_path):
    assert predict([*command[:4], "--input", str(photos), "--save-labels", *command[4:]]) == 0
    out = tmp_path / "out"
    pictures = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert pictures == ["a.png", "b.png", "labels/a.png", "labels/b.png", "labels/sub/a.png", "sub/a.png"]
    labels = np.array(Image.open(out / "labels" / "sub" / "a.png"))
    assert labels.shape == (20, 30) and labels[:, :11].all() and not labels[:, 13:].any()
    with Image.open(out / "a.png") as picture:
        assert picture.width > 2 * picture.height


def test_a_broken_image_is_skipped_and_told(photos, command, tmp_path, caplog):
    caplog.set_level("INFO")
    data = (photos / "a.png").read_bytes()
    (photos / "aa_truncated.png").write_bytes(data[: len(data) // 2])
    (photos / "ab_text.png").write_text("not an image")
    status = predict([*command[:4], "--input", str(photos), "gone.png", *command[4:]])
    assert status == 1
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a.png", "b.png"}
    failed = [record.getMessage() for record in caplog.records if record.getMessage().startswith("FAILED")]
    assert len(failed) == 3
    for name in ("aa_truncated.png", "ab_text.png", "gone.png"):
        assert any(name in line for line in failed)
    assert "3 of 5 files" in caplog.text


def test_other_class_names(photos, command, tmp_path):
    arguments = [*command[:4], "--input", str(photos / "a.png"), "--labels", "night, day , my cat", "--save-labels"]
    assert predict([*arguments, "--alpha", "1", *command[4:]]) == 0
    colors = distinct_colors(5)[2:]  # none of the names is known to the model
    sheet = np.array(Image.open(tmp_path / "out" / "a.png"))
    assert (sheet == colors[0]).all(-1).any() and (sheet == colors[1]).all(-1).any()
    assert not (sheet == colors[2]).all(-1).any()


def test_pixels_that_no_name_fits(photos, command, tmp_path, capsys):
    torch.save({"model": {"threshold": torch.tensor(20.0)}}, command[3])  # the dark half is neither dark nor bright
    arguments = [*command[:4], "--input", str(photos / "a.png"), "--save-labels", *command[4:]]
    assert predict([*arguments, "--other", " rest "]) == 0
    labels = np.array(Image.open(tmp_path / "out" / "labels" / "a.png"))
    assert (labels[:, :8] == 1).all() and (labels[:, 13:] == 2).all()
    assert predict([*arguments, "--other", "rest", "--threshold", "0"]) == 0
    assert np.array(Image.open(tmp_path / "out" / "labels" / "a.png")).max() == 1
    assert predict([*arguments, "--threshold", "0.5"]) == 1
    assert "--threshold needs --other" in capsys.readouterr().err


def test_augmentation(photos, command, tmp_path):
    arguments = [
        *command[:4],
        "--input",
        str(photos / "a.png"),
        "--labels",
        "night, day",
        "--save-labels",
        *command[4:],
    ]
    assert predict([*arguments, "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(20, 40)"]) == 0
    labels = np.array(Image.open(tmp_path / "out" / "labels" / "a.png"))
    assert labels.shape == (20, 30) and labels[:, :9].all() and not labels[:, 11:].any()
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.width > 2 * picture.height


def test_overrides_come_last(photos, command, capsys):
    arguments = [*command[:4], "--input", str(photos), *command[4:], "MODEL.DEVICE", "nonsense"]
    assert predict(arguments) == 1
    assert "MODEL.DEVICE is 'nonsense'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--alpha", "1.5"),
        ("--alpha", "x"),
        ("--smoothing", "1"),
        ("--labels", "sky,,road"),
        ("--other", " "),
        ("--threshold", "2"),
    ],
)
def test_wrong_options(command, option, value, capsys):
    with pytest.raises(SystemExit):
        predict([*command, "--input", "a.png", option, value])
    assert option in capsys.readouterr().err


def test_missing_weights(photos, command, capsys):
    assert predict([*command[:2], "--input", str(photos), *command[4:]]) == 1
    assert "MODEL.WEIGHTS" in capsys.readouterr().err


def test_inputs_are_never_overwritten(photos, command, capsys):
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    for output in (photos, photos / "sub" / ".."):
        assert predict([*command[:4], "--input", str(photos), "--output", str(output)]) == 1
        assert "is an input, and would be overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in photos.rglob("*.*")} == before
    (photos / "sub").rename(photos / "labels")  # where label maps would go
    assert predict([*command[:4], "--input", str(photos / "labels"), "--output", str(photos), "--save-labels"]) == 1


def test_names_do_not_depend_on_other_inputs(photos, command, tmp_path, capsys, caplog):
    (photos / "a.jpg").write_bytes((photos / "b.jpg").read_bytes())
    assert predict([*command[:4], "--input", str(photos / "sub" / "a.png"), *command[4:]]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    assert predict([*command[:4], "--input", str(photos), "--output", str(tmp_path / "all")]) == 1
    assert sorted(path.name for path in (tmp_path / "all").rglob("*.png")) == ["a.png", "a.png", "b.png"]
    assert f"a.png is already made of {photos / 'a.jpg'}" in caplog.text


def test_the_checkpoint_alone_is_enough(photos, command, tmp_path):
    """It holds its config."""
    config_file, weights = command[1], command[3]
    content = torch.load(weights) | {"config": Path(config_file).read_text()}
    torch.save(content, tmp_path / "whole.pth")
    assert predict(["--weights", str(tmp_path / "whole.pth"), "--input", str(photos), *command[4:]]) == 0
    assert (tmp_path / "out" / "sub" / "a.png").is_file()


def test_a_checkpoint_without_config_takes_the_one_beside_it(photos, command, tmp_path, capsys):
    assert predict([*command[2:], "--input", str(photos / "a.png")]) == 0
    Path(command[1]).rename(tmp_path / "another.yaml")
    assert predict([*command[2:], "--input", str(photos / "a.png")]) == 1
    assert "holds no config" in capsys.readouterr().err


def test_a_saved_model(photos, tmp_path, caplog):
    saved = segmenter(mta_clip_config()).save(tmp_path / "saved")
    output = ["--output", str(tmp_path / "out")]
    assert predict(["--config-file", str(saved), "--input", str(photos / "a.png"), *output, "MODEL.DEVICE", "cpu"]) == 0
    assert (tmp_path / "out" / "a.png").is_file()
    assert f"Loading from {saved / 'model.safetensors'}" in caplog.text


def test_folders_mix_images_and_videos(photos, command, tmp_path, caplog):
    caplog.set_level("INFO")
    write_clip(photos / "sub" / "clip.avi", bar_frames(6))
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8)
    data = write_clip(tmp_path / "whole.avi", noise).read_bytes()
    (photos / "cut.avi").write_bytes(data[: len(data) // 2])
    (photos / "text.mp4").write_text("no video")
    arguments = ["--input", str(photos), "99", "--save-labels", "--smoothing", "0.5", "--batch-size", "2"]
    assert predict([*command[:4], *arguments, *command[4:]]) == 1
    out = tmp_path / "out"
    assert {path.name for path in out.rglob("*.mp4")} == {"clip.mp4", "cut.mp4"} and (out / "sub" / "a.png").is_file()
    assert len(read_clip(out / "sub" / "clip.mp4")[0]) == len(list((out / "labels" / "sub" / "clip").iterdir())) == 6
    assert "of 12 frames cannot be read; the others are in" in caplog.text
    assert "webcam 99 cannot be opened" in caplog.text and "4 of 7 files" in caplog.text
