"""Saves label maps as PNG files whose pixel values are the class indices."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import complete_file


def save_label_map(labels: NDArray[np.integer], path: str | Path, colors: NDArray[np.uint8] | None = None) -> None:
    """Writes a label map as a PNG file; see `label_picture`.

    Raises:
        ValueError: a label is outside of 0..65535.
        OSError: the file cannot be written.
    """
    try:
        picture = label_picture(labels, colors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with complete_file(path) as part:
        picture.save(part, format="PNG")


def label_picture(labels: NDArray[np.integer], colors: NDArray[np.uint8] | None = None) -> Image.Image:
    """A label map as an image of 8 bits, with a palette if there are `colors`, or of 16 bits and grey above 255.

    Args:
        labels: (H, W), in 0..65535; they are the pixel values in every case.
        colors: (C, 3) RGB, 0..255; values beyond C appear black. None: greyscale.

    Raises:
        ValueError: a label is outside of 0..65535.
    """
    if labels.min() < 0 or labels.max() > 65535:
        raise ValueError(f"labels must be in 0..65535, got {labels.min()}..{labels.max()}")
    if labels.max() > 255:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8))
    if colors is not None:
        # The palette must have an entry for every value: Pillow clamps values beyond it.
        picture.putpalette(colors[:256].tobytes().ljust(3 * 256, b"\0"))
    return picture
