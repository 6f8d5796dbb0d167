"""Draws a label map over its image.

Shapes: H, W image size, C classes.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

CONTOUR_COLOR = (255, 255, 255)
CONTOUR_SHARE = 1 / 400  # contour width as a share of the longer image side; at least one pixel


def draw_overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.integer],
    colors: NDArray[np.uint8],
    *,
    alpha: float = 0.55,
    contours: bool = True,
) -> NDArray[np.uint8]:
    """Blends label colours into an image and traces the borders between labels.

    Args:
        image: (H, W, 3) RGB, 0..255, as is the result.
        labels: (H, W) class indices; pixels with another value, such as an ignore label, stay as in the image.
        colors: (C, 3) RGB, 0..255.
        alpha: share of the label colour, 0..1.
        contours: whether borders between labels are drawn.

    Raises:
        ValueError: image and label map differ in size, or `alpha` is out of range.
    """
    if image.shape != (*labels.shape, 3):
        raise ValueError(f"an image of shape {image.shape} cannot carry a label map of shape {labels.shape}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is a share between 0 and 1, got {alpha}")
    labelled = (labels >= 0) & (labels < len(colors))
    painting = np.zeros_like(image)
    painting[labelled] = colors[labels[labelled]]
    blended = cv2.addWeighted(image, 1 - alpha, painting, alpha, 0)
    overlay = np.where(labelled[..., None], blended, image)
    if contours:
        line = label_borders(labels)[..., None]
        overlay = (overlay * (1 - line) + np.array(CONTOUR_COLOR) * line).round().astype(np.uint8)
    return overlay


def label_borders(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Softened lines along the borders between labels; their width grows with the size of the map.

    Returns:
        (H, W), share of each pixel that a line covers, 0..1; 1 where the left or upper neighbour has another label.
    """
    borders = np.zeros(labels.shape, np.float32)
    borders[:, 1:] += labels[:, 1:] != labels[:, :-1]
    borders[1:] += labels[1:] != labels[:-1]
    width = max(1, round(max(labels.shape) * CONTOUR_SHARE))
    lines = cv2.dilate(borders.clip(max=1), np.ones((width, width), np.uint8))
    return np.maximum(lines, cv2.GaussianBlur(lines, (0, 0), 0.6))
