"""Pixel counts, added up image by image; every metric is computed from them.

Shapes: C classes, H and W image size.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boundary import boundary_counts


def confusion_matrix(truth: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int) -> NDArray:
    """Counts the pairs of true and predicted class in two arrays of class indices: (C, C) int64, row = true class."""
    pairs = truth.astype(np.int64).ravel() * num_classes + prediction.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass
class SegmentationCounts:
    """Sums over images. Two of them can be added, so that processes count on their own and are joined at the end."""

    confusion: NDArray[np.int64]  # (C, C), row = true class, column = predicted class
    boundary_intersection: NDArray[np.int64]  # (C,), zeros unless boundaries are counted
    boundary_union: NDArray[np.int64]  # (C,)
    images: int = 0

    @classmethod
    def zeros(cls, num_classes: int) -> "SegmentationCounts":
        """Counts before the first image."""
        line = np.zeros(num_classes, np.int64)
        return cls(np.zeros((num_classes, num_classes), np.int64), line, line.copy())

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.confusion)

    def update(
        self,
        truth: NDArray[np.integer],
        prediction: NDArray[np.integer],
        *,
        ignore_label: int,
        boundary_dilation: float | None = None,
    ) -> None:
        """Counts one image.

        Args:
            truth: (H, W), class indices in [0, C) or the ignore label, which is not counted.
            prediction: (H, W), class indices in [0, C).
            boundary_dilation: width of the boundary band as a share of the image diagonal; None: bands are not counted.
        """
        valid = truth != ignore_label
        self.confusion += confusion_matrix(truth[valid], prediction[valid], self.num_classes)
        if boundary_dilation is not None:
            intersection, union = boundary_counts(
                truth, prediction, valid, num_classes=self.num_classes, dilation=boundary_dilation
            )
            self.boundary_intersection += intersection
            self.boundary_union += union
        self.images += 1

    def __add__(self, other: Any) -> "SegmentationCounts":
        if not isinstance(other, SegmentationCounts):
            return NotImplemented
        return SegmentationCounts(
            self.confusion + other.confusion,
            self.boundary_intersection + other.boundary_intersection,
            self.boundary_union + other.boundary_union,
            self.images + other.images,
        )
