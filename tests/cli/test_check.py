"""What it finds is tested with `mta_clip.data.check`."""

import pytest
from noise_config import make_noise_config
from PIL import Image

from mta_clip.cli.main import main


@pytest.fixture
def check(tmp_path):
    config = make_noise_config(tmp_path)
    options = ["--config-file", str(config), "--output", str(tmp_path / "out"), "--workers", "0"]
    return lambda name: main(["check", name, *options])


def test_sound_data(check, tmp_path, caplog):
    assert check("noise") == 0
    assert "No trouble found." in caplog.text
    assert (tmp_path / "out" / "noise.png").is_file()


def test_trouble_is_the_exit_status(check, tmp_path, caplog):
    Image.new("L", (2, 2)).save(tmp_path / "labels" / "0.png")
    assert check("noise") == 1
    assert "the label map is 2x2 pixels" in caplog.text and "Troubles found: 1." in caplog.text


@pytest.fixture
def check_photos(tmp_path):
    """Checks the images of the noise config as one's own photos."""
    make_noise_config(tmp_path)
    (tmp_path / "names.txt").write_text("green\nred\n")
    output = ["--output", str(tmp_path / "out"), "--workers", "0"]
    return lambda *arguments: main(["check", "--data", str(tmp_path), *output, *arguments])


def test_own_photos_are_checked_all_together(check_photos, tmp_path, caplog):
    assert check_photos() == 0
    assert "6 pairs of image and label map" in caplog.text and "No trouble found." in caplog.text
    assert "hold out 1 of these 6 photos" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"own_{tmp_path.name}_train.png"]


def test_own_photos_of_a_val_folder_are_checked_too(check_photos, tmp_path, caplog):
    for kind in ("images", "labels"):
        (tmp_path / "val" / kind).mkdir(parents=True)
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / kind).rename(tmp_path / "train" / kind)
        (tmp_path / "train" / kind / "5.png").rename(tmp_path / "val" / kind / "5.png")
    Image.new("L", (2, 2)).save(tmp_path / "val" / "labels" / "5.png")
    assert check_photos() == 1
    assert "No trouble found." in caplog.text and "5.png: the label map is 2x2 pixels" in caplog.text


def test_own_photos_with_values_that_are_no_classes(check_photos, tmp_path, caplog):
    labels = tmp_path / "labels" / "0.png"
    Image.open(labels).point(lambda value: value * 7).save(labels)
    assert check_photos() == 1
    assert "TROUBLE: value 7 is out of range" in caplog.text and "Advice: If they mean void" in caplog.text
    assert "Troubles found: 1." in caplog.text  # advice is none
    assert check_photos("--label-map", "{7: 1}") == 0
    (tmp_path / "names.txt").unlink()
    assert check_photos() == 1
    assert "names.txt: this list of class names does not exist" in caplog.text


@pytest.mark.parametrize("arguments", [[], ["camvid_sem_seg_val", "--data", "streets"]])
def test_either_a_name_or_photos(arguments, capsys):
    assert main(["check", *arguments]) == 1
    assert "name either a dataset, as in DATASETS.TRAIN, or your own photos with --data" in capsys.readouterr().err


def test_a_misspelt_name(check, caplog):
    assert check("nois") == 1
    assert "Did you mean noise" in caplog.text
