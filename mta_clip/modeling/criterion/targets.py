"""Turns label maps into targets for the criterion: one binary mask for each class in the image.

Shapes: M target masks (one per class in the image), C classes, H and W = an image after padding.
"""

from typing import TypedDict

import torch
from torch import Tensor

from ..check_labels import check_labels


class Target(TypedDict):
    """Ground truth of one image, padded to the size of the batch."""

    labels: Tensor  # (M,) int64, ascending, in 0..C-1; on the CPU, where matching needs them
    masks: Tensor  # (M, H, W) bool
    ignored: Tensor  # (H, W) bool, True on the ignore label and on padding


def targets_from_sem_seg(
    sem_segs: list[Tensor],
    size: tuple[int, int],
    ignore_label: int,
    num_classes: int | None = None,
    device: torch.device | None = None,
) -> list[Target]:
    """The targets of a batch, one per image.

    Args:
        sem_segs: one label map per image, at most (H, W), of any integer type; values 0..C-1 or the ignore label. Best
            on the CPU: to read them from a GPU is to wait for it.
        size: (H, W) in pixels; label maps are padded to it at the right and the bottom.
        ignore_label: value of pixels without a class.
        num_classes: C; None = labels have no upper limit.
        device: of the masks; None = that of the label map.

    Raises:
        ValueError: a label map has the wrong type or rank, does not fit into `size`, or contains a value that is
            neither a class nor the ignore label.
    """
    return [
        _target_of_image(sem_seg, f"sem_seg of image {index} in the batch", size, ignore_label, num_classes, device)
        for index, sem_seg in enumerate(sem_segs)
    ]


def present_labels(
    sem_seg: Tensor, ignore_label: int, num_classes: int | None = None, where: str = "sem_seg"
) -> Tensor:
    """The labels (M,) int64 in a label map of any shape, ascending, without the ignore label.

    Raises:
        ValueError: see `targets_from_sem_seg`; `where` names the label map.
    """
    values = sem_seg[sem_seg != ignore_label].long()
    check_labels(values, num_classes, where, also=(ignore_label,))
    return torch.bincount(values).nonzero().flatten()


def _target_of_image(
    sem_seg: Tensor,
    where: str,
    size: tuple[int, int],
    ignore_label: int,
    num_classes: int | None,
    device: torch.device | None,
) -> Target:
    if sem_seg.dim() != 2 or sem_seg.is_floating_point() or sem_seg.dtype == torch.bool:
        raise ValueError(
            f"{where} must be an integer (height, width) label map, got shape {tuple(sem_seg.shape)} and type "
            f"{sem_seg.dtype}"
        )
    height, width = sem_seg.shape
    if height > size[0] or width > size[1]:
        raise ValueError(
            f"{where} has size {height}x{width}, larger than the padded images {size[0]}x{size[1]}; resize and crop an "
            "image and its label map together"
        )
    labels = present_labels(sem_seg, ignore_label, num_classes, where)
    sem_seg = sem_seg.to(device, non_blocking=True)
    ignored = torch.ones(size, dtype=torch.bool, device=sem_seg.device)
    ignored[:height, :width] = sem_seg == ignore_label
    masks = torch.zeros((len(labels), *size), dtype=torch.bool, device=sem_seg.device)
    masks[:, :height, :width] = sem_seg == labels.to(sem_seg.device, non_blocking=True)[:, None, None]
    return Target(labels=labels.cpu(), masks=masks, ignored=ignored)
