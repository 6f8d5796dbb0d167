"""Cityscapes, fine annotations, 19 classes: train 2,975, val 500 images of 2048x1024. Ignored: train id 255.

Layout: $DETECTRON2_DATASETS/cityscapes/{leftImg8bit,gtFine}/{train,val}/<city>/, with *_labelTrainIds.png made by
datasets/prepare_cityscapes.py (or by the official tools). Detectron2 registers these images as
`cityscapes_fine_sem_seg_*` and evaluates them with the official scripts; here our evaluator does, whose IoU over the 19
classes is the same measure.
"""

from ..classes import builtin_classes
from .catalog import data_root, pair_folders, register_splits


def register() -> None:
    """Registers `cityscapes_19_sem_seg_{train,val}`."""
    register_splits("cityscapes_19_sem_seg", ("train", "val"), _load, builtin_classes("cityscapes"))


def _load(split: str) -> list[dict]:
    root = data_root() / "cityscapes"
    return pair_folders(
        root / "leftImg8bit" / split,
        root / "gtFine" / split,
        image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelTrainIds.png",
    )
