"""Label maps as PNG files whose pixel values are the class indices."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import complete_file


def save_label_map(labels: NDArray[np.integer], path: str | Path, colors: NDArray[np.uint8] | None = None) -> None:
    """Writes a label map without loss; the file appears under its name only when it is complete.

    Up to 256 labels give an 8-bit PNG (with a palette, if there are colours: it looks like the overlay and still
    reads as class indices), more give a 16-bit greyscale PNG.

    Args:
        labels: (H, W), in 0..65535.
        colors: (C, 3) RGB; values beyond C appear black.

    Raises:
        ValueError: a label does not fit into 16 bits.
    """
    if labels.min() < 0 or labels.max() > 65535:
        raise ValueError(f"{path}: labels must be in 0..65535, got {labels.min()}..{labels.max()}")
    if labels.max() > 255:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        picture = Image.fromarray(labels.astype(np.uint8))
        if colors is not None:
            # A PNG's palette must reach as far as its values: Pillow clamps what lies beyond.
            picture.putpalette(colors[:256].tobytes().ljust(3 * 256, b"\0"))
    with complete_file(path) as part:
        picture.save(part, format="PNG")
