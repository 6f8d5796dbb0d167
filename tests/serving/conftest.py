import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture():
    """A quarter dark, the rest bright: (30, 40, 3)."""
    pixels = np.full((30, 40, 3), (200, 220, 240), np.uint8)
    pixels[:, :10] = (20, 40, 30)
    return pixels


@pytest.fixture
def png(picture):
    """The bytes of its file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
