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
    assert "the label map is 2x2 pixels" in caplog.text and "1 troubles" in caplog.text


def test_a_misspelt_name(check, caplog):
    assert check("nois") == 1
    assert "Did you mean noise" in caplog.text
