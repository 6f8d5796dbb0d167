"""CamVid in SegNet's version: 11 classes, 480x360 pixels; train 367, val 101, test 233 images.

Layout: $DETECTRON2_DATASETS/camvid/{train,val,test} with the images (PNG or JPEG) and {train,val,test}annot with label
maps of the same names (PNG); value 11 is unlabelled.
"""

from ..classes import builtin_classes
from .catalog import data_root, pair_folders, register_splits

_UNLABELLED = 11


def register() -> None:
    """Registers `camvid_sem_seg_{train,val,test}`."""
    splits = ("train", "val", "test")
    register_splits("camvid_sem_seg", splits, _load, builtin_classes("camvid"), label_map={_UNLABELLED: 255})


def _load(split: str) -> list[dict]:
    root = data_root() / "camvid"
    return pair_folders(root / split, root / f"{split}annot")
