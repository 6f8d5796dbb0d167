"""COCO-Stuff 164K, 171 classes: train 118,287, val 5,000 images. Ignored: unlabelled, 255.

Layout: $DETECTRON2_DATASETS/coco/{train2017,val2017} and coco/stuffthingmaps_171/{train2017,val2017}, made by
datasets/prepare_coco_stuff.py.
"""

from ..classes import builtin_classes
from .catalog import data_root, pair_folders, register_splits

# Ids of COCO's 91 things that no image has; stuff ids start at 92.
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
CLASS_IDS = tuple(number for number in range(1, 183) if number not in UNUSED_IDS)


def register() -> None:
    """Registers `coco_stuff_171_sem_seg_{train,val}`."""
    to_index = {number: index for index, number in enumerate(CLASS_IDS)}
    classes = builtin_classes("coco_stuff")
    register_splits(
        "coco_stuff_171_sem_seg", ("train", "val"), _load, classes, stuff_dataset_id_to_contiguous_id=to_index
    )


def _load(split: str) -> list[dict]:
    root = data_root() / "coco"
    return pair_folders(root / f"{split}2017", root / "stuffthingmaps_171" / f"{split}2017")
