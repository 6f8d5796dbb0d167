"""The toy model that tells dark from bright pixels, tiny MTA-CLIP, and photos for them."""

import numpy as np
import pytest
from PIL import Image
from saved_models import mta_clip_config, segmenter, tag_clip_config
from toy_predictor import make_config

from mta_clip.api.load import load


@pytest.fixture
def photo(tmp_path):
    """A quarter dark, the rest bright: (30, 40, 3)."""
    picture = np.full((30, 40, 3), (200, 220, 240), np.uint8)
    picture[:, :10] = (20, 40, 30)
    Image.fromarray(picture).save(tmp_path / "street.png")
    return str(tmp_path / "street.png")


@pytest.fixture
def toy_checkpoint(tmp_path):
    """Path of the toy model's weights; its config is beside them."""
    folder = tmp_path / "toy"
    folder.mkdir()
    return make_config(folder)[1]


@pytest.fixture
def toy(toy_checkpoint):
    return load(toy_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def mta():
    return segmenter(mta_clip_config())


@pytest.fixture(scope="session")
def tag():
    return segmenter(tag_clip_config())
