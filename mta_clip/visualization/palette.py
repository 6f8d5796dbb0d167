"""Class colours, for datasets that have none of their own.

Shapes: C classes, M candidate colours.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

FIRST_COLOR = (78, 140, 205)  # a calm blue; all other colours depend on it
LEVELS = 24  # candidates per RGB channel
LIGHTNESS = (42.0, 87.0)  # CIELAB L*, 0..100: neither black nor white, so that contours and text stay visible
CHROMA = (24.0, 72.0)  # CIELAB distance from grey: neither greyish, which would look like "no label", nor glaring


def distinct_colors(count: int, *, apart_from: ArrayLike = ()) -> NDArray[np.uint8]:
    """(count, 3) RGB colours, 0..255, that are as far apart as possible, the same on every call.

    Each colour is the candidate that is farthest (in CIELAB) from all colours before it, so the first n colours do not
    depend on `count`. After about 5000 colours they repeat.

    Args:
        apart_from: (M, 3) RGB colours in use, 0..255, which come before them.

    Raises:
        ValueError: `count` is negative.
    """
    if count < 0:
        raise ValueError(f"the number of colours must not be negative, got {count}")
    candidates, lab = _candidates()
    used, chosen = np.asarray(apart_from, np.uint8).reshape(-1, 3), list[int]()
    if not len(used):
        chosen.append(int(np.linalg.norm(candidates.astype(int) - FIRST_COLOR, axis=1).argmin()))
        used = candidates[chosen]
    distance = np.min([np.linalg.norm(lab - color, axis=1) for color in _lab(used)], axis=0)
    while len(chosen) < min(count, len(lab)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    return candidates[np.resize(chosen, count)] if count else np.zeros((0, 3), np.uint8)


def _lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIELAB of colours (M, 3) RGB, 0..255."""
    return cv2.cvtColor(rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]


def _candidates() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Regular grid of suitable colours as (M, 3) RGB and (M, 3) CIELAB."""
    level = np.linspace(0, 255, LEVELS).round().astype(np.uint8)
    rgb = np.stack(np.meshgrid(level, level, level, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(rgb)
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    fit = (LIGHTNESS[0] < lightness) & (lightness < LIGHTNESS[1]) & (CHROMA[0] < chroma) & (chroma < CHROMA[1])
    return rgb[fit], lab[fit]


def class_colors(num_classes: int, given: Sequence[Sequence[int]] | None = None) -> NDArray[np.uint8]:
    """The colours `given` for a dataset's classes, or distinct ones if there are none, as (C, 3) RGB, 0..255.

    Raises:
        ValueError: the given colours are not one RGB triple in 0..255 per class.
    """
    if given is None or not len(given):
        return distinct_colors(num_classes)
    colors = np.asarray(given)
    if colors.shape != (num_classes, 3) or colors.min() < 0 or colors.max() > 255:
        raise ValueError(
            f"expected {num_classes} colours (one per class) of three values in 0..255, got an array of shape "
            f"{colors.shape} with values {colors.min()}..{colors.max()}; fix `stuff_colors` of the dataset's metadata"
        )
    return colors.astype(np.uint8)
