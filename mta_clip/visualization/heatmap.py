"""Draws values in [0, 1] as a picture with a colour scale."""

import matplotlib
import numpy as np
from numpy.typing import NDArray

COLOR_MAP = "viridis"  # perceptually uniform, readable without colour vision
SCALE_SHARE = 0.035  # height of the colour scale at the bottom, as a share of the picture's height


def draw_heatmap(values: NDArray[np.floating], *, scale: bool = True) -> NDArray[np.uint8]:
    """Colours (H, W) values in [0, 1] as (H, W, 3) uint8 RGB; dark is 0, bright is 1.

    Args:
        scale: whether the bottom rows show the colours from 0 (left) to 1 (right).

    Raises:
        ValueError: a value is outside [0, 1] or NaN.
    """
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"a heat map needs values in [0, 1], got {values.min()}..{values.max()}")
    color_map = matplotlib.colormaps[COLOR_MAP]
    picture = color_map(values, bytes=True)[..., :3].copy()
    if scale:
        height, width = values.shape
        rows = max(1, round(height * SCALE_SHARE))
        picture[-rows:] = color_map(np.linspace(0, 1, width), bytes=True)[None, :, :3]
        picture[-rows - 1 : -rows] = 255
    return picture
