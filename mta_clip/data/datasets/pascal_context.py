"""PASCAL Context: train 4,998, val 5,105 images of VOC 2010.

Three versions of the same images: `pascal_context_59_*` has the 59 most frequent classes and ignores the rest,
`pascal_context_60_*` has the rest as class 0, "background", and `pascal_context_459_*` has all classes.

Layout: $DETECTRON2_DATASETS/VOCdevkit/VOC2010/{JPEGImages,ImageSets/Main}; and, made by
datasets/prepare_pascal_context.py, SegmentationClassContext (0 = none of the 59, 1..59 = the classes in the order of
our list) and SegmentationClassContext459 (16 bit, 0..458, 65535 = unlabelled).
"""

import functools

from ..classes import builtin_classes
from .catalog import data_root, pair_listed, register_splits


def register() -> None:
    """Registers `pascal_context_{59,60,459}_sem_seg_{train,val}`."""
    classes = builtin_classes("pascal_context")
    without_background = {0: 255} | {number: number - 1 for number in range(1, len(classes) + 1)}
    splits = ("train", "val")
    register_splits("pascal_context_59_sem_seg", splits, _load, classes, label_map=without_background)
    register_splits("pascal_context_60_sem_seg", splits, _load, classes.with_background())
    load_all = functools.partial(_load, labels="SegmentationClassContext459")
    all_classes = builtin_classes("pascal_context_459")
    register_splits("pascal_context_459_sem_seg", splits, load_all, all_classes, ignore_label=65535)


def _load(split: str, *, labels: str = "SegmentationClassContext") -> list[dict]:
    root = data_root() / "VOCdevkit" / "VOC2010"
    names = root / "ImageSets" / "Main" / f"{split}.txt"
    return pair_listed(root / "JPEGImages", root / labels, names)
