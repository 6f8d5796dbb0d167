"""Turns label maps into targets for the criterion: one binary mask for each class in the image.

Shapes: M target masks (one per class in the image), C classes, H and W = an image after padding.
"""

from typing import TypedDict

import torch
from torch import Tensor

from ..check_labels import check_labels


class Target(TypedDict):
    """Ground truth of one image, padded to the size of the batch."""

    labels: Tensor  # (M,) int64, ascending, in 0..C-1
    masks: Tensor  # (M, H, W) bool
    ignored: Tensor  # (H, W) bool, True on the ignore label and on padding


def targets_from_sem_seg(
    sem_segs: list[Tensor], size: tuple[int, int], ignore_label: int, num_classes: int | None = None
) -> list[Target]:
    """The targets of a batch, one per image, on the device of the label maps.

    Args:
        sem_segs: one label map per image, at most (H, W), of any integer type; values 0..C-1 or the ignore label.
        size: (H, W) in pixels; label maps are padded to it at the right and the bottom.
        ignore_label: value of pixels without a class.
        num_classes: C; None = labels have no upper limit.

    Raises:
        ValueError: a label map has the wrong type or rank, does not fit into `size`, or contains a value that is
            neither a class nor the ignore label.
    """
    return [_target_of_image(index, labels, size, ignore_label, num_classes) for index, labels in enumerate(sem_segs)]


def _target_of_image(
    index: int, sem_seg: Tensor, size: tuple[int, int], ignore_label: int, num_classes: int | None
) -> Target:
    if sem_seg.dim() != 2 or sem_seg.is_floating_point() or sem_seg.dtype == torch.bool:
        raise ValueError(
            f"sem_seg of image {index} in the batch must be an integer (height, width) label map, "
            f"got shape {tuple(sem_seg.shape)} and type {sem_seg.dtype}"
        )
    height, width = sem_seg.shape
    if height > size[0] or width > size[1]:
        raise ValueError(
            f"sem_seg of image {index} in the batch has size {height}x{width}, larger than the padded images "
            f"{size[0]}x{size[1]}; resize and crop an image and its label map together"
        )
    ignored = torch.ones(size, dtype=torch.bool, device=sem_seg.device)
    ignored[:height, :width] = sem_seg == ignore_label
    values = sem_seg[~ignored[:height, :width]].long()
    check_labels(values, num_classes, f"sem_seg of image {index} in the batch", also=(ignore_label,))
    labels = torch.bincount(values).nonzero().flatten()
    masks = torch.zeros((len(labels), *size), dtype=torch.bool, device=sem_seg.device)
    masks[:, :height, :width] = sem_seg == labels[:, None, None]
    return Target(labels=labels, masks=masks, ignored=ignored)
