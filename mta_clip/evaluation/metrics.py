"""Computes metrics from pixel counts. Here all are shares in [0, 1]; reports turn them into percent.

Shapes: C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .counts import SegmentationCounts


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of every class, (C,) each; NaN where a metric is not defined for a class."""

    iou: NDArray[np.float64]  # NaN: the class is neither in the ground truth nor predicted
    accuracy: NDArray[np.float64]  # share of its pixels that were found; NaN: not in the ground truth
    precision: NDArray[np.float64]  # share of its predicted pixels that are right; NaN: never predicted
    boundary_iou: NDArray[np.float64]  # NaN: as for iou, or boundaries were not counted
    true_pixels: NDArray[np.int64]
    predicted_pixels: NDArray[np.int64]


def class_metrics(counts: SegmentationCounts) -> ClassMetrics:
    """Metrics per class. Only pixels with a ground-truth class count; predictions at other pixels do not."""
    hits = counts.confusion.diagonal()
    true_pixels, predicted_pixels = counts.confusion.sum(1), counts.confusion.sum(0)
    return ClassMetrics(
        iou=_ratio(hits, true_pixels + predicted_pixels - hits),
        accuracy=_ratio(hits, true_pixels),
        precision=_ratio(hits, predicted_pixels),
        boundary_iou=_ratio(counts.boundary_intersection, counts.boundary_union),
        true_pixels=true_pixels,
        predicted_pixels=predicted_pixels,
    )


def summary_metrics(counts: SegmentationCounts, unseen: Sequence[int] = ()) -> dict[str, float]:
    """Metrics over all classes, named as Detectron2 names them.

    A class that is absent from both ground truth and predictions is left out of every mean; a class that is predicted
    but absent from the ground truth enters mIoU with 0.

    Args:
        unseen: indices of the classes held out of training.

    Returns:
        mIoU; fwIoU, IoU weighted by true pixels; mACC, mean accuracy of the classes; pACC, accuracy over pixels;
        boundary_mIoU if boundaries were counted; mIoU_seen, mIoU_unseen and hIoU, their harmonic mean, if there are
        unseen classes. NaN where nothing was counted.
    """
    metrics = class_metrics(counts)
    there = metrics.true_pixels > 0
    total = metrics.true_pixels.sum()
    result = {
        "mIoU": _mean(metrics.iou),
        "fwIoU": float((metrics.true_pixels[there] * metrics.iou[there]).sum() / total) if total else float("nan"),
        "mACC": _mean(metrics.accuracy),
        "pACC": float(counts.confusion.trace() / total) if total else float("nan"),
    }
    if counts.boundary_union.any():
        result["boundary_mIoU"] = _mean(metrics.boundary_iou)
    if len(unseen):
        held_out = np.isin(np.arange(counts.num_classes), unseen)
        seen_iou, unseen_iou = _mean(metrics.iou[~held_out]), _mean(metrics.iou[held_out])
        result |= {"mIoU_seen": seen_iou, "mIoU_unseen": unseen_iou, "hIoU": harmonic_mean(seen_iou, unseen_iou)}
    return result


def harmonic_mean(seen: float, unseen: float) -> float:
    """2 S U / (S + U), the measure of generalised zero-shot segmentation; 0 if both are 0."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen != 0 else 0.0


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
