"""Boundary IoU (Cheng et al., CVPR 2021, equation 2), for all classes of a label map at once.

It is the IoU of two masks after each is reduced to a band along its contour: its pixels within a distance d of the
outside. For a label map, two filters give the bands of all classes: a pixel is in the band of its own class if the
square of radius d around it contains any other label.

Shapes: C classes, H and W image size.
"""

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

OUTSIDE = -1  # label beyond the image edge, which counts as a contour, as in the paper's implementation


def boundary_counts(
    truth: NDArray[np.integer],
    prediction: NDArray[np.integer],
    valid: NDArray[np.bool_],
    *,
    num_classes: int,
    dilation: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Intersection and union of the boundary bands of true and predicted masks.

    Ignored pixels are not counted, and the edge of an ignored area is not a contour of either mask.

    Args:
        truth: (H, W), class indices in [0, C) wherever `valid`.
        prediction: (H, W), the same of the model.
        valid: (H, W), False where the truth is ignored.
        dilation: d as a share of the image diagonal; d is at least one pixel.

    Returns:
        Intersection (C,) and union (C,) int64, in pixels.
    """
    radius = max(1, round(dilation * float(np.hypot(*truth.shape))))
    true_band = boundary_band(truth, valid, radius) & valid
    predicted_band = boundary_band(prediction, valid, radius) & valid
    both = true_band & predicted_band & (truth == prediction)
    per_class = functools.partial(np.bincount, minlength=num_classes)
    intersection = per_class(truth[both])
    return intersection, per_class(truth[true_band]) + per_class(prediction[predicted_band]) - intersection


def boundary_band(labels: NDArray[np.integer], valid: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Pixels that have another valid label, or the image edge, in the square of side 2 * radius + 1 around them.

    All are (H, W); the result is meaningless where not `valid`. The radius is at least 1 pixel.
    """
    # int16 is the widest signed integer type that OpenCV filters; its two extremes hide ignored pixels from them.
    limits = np.iinfo(np.int16)
    square = np.ones((3, 3), np.uint8)  # applied `radius` times, it makes the large square

    def padded(fill: int) -> NDArray[np.int16]:
        return np.pad(np.where(valid, labels, fill).astype(np.int16), 1, constant_values=OUTSIDE)

    options: dict[str, Any] = {"iterations": radius, "borderType": cv2.BORDER_REPLICATE}
    lowest = cv2.erode(padded(limits.max), square, **options)
    highest = cv2.dilate(padded(limits.min), square, **options)
    return (lowest != highest)[1:-1, 1:-1]
