"""PASCAL VOC 2012 with the SBD annotations: train 1,464, trainaug 10,582, val 1,449 images. Ignored: outlines, 255.

Three versions of the same files: `voc2012_20_*` has the 20 objects and ignores the background (zero-shot literature),
`voc2012_21_*` has the background as class 0 (the challenge), and so has `voc2012_20b_*` (open-vocabulary literature),
where it goes by the names of what it shows: the 39 classes of PASCAL Context-59 that are none of the 20.

Layout: $DETECTRON2_DATASETS/VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}; for trainaug
also SegmentationClassAug and ImageSets/Segmentation/aug.txt, made by datasets/prepare_voc2012.py.
"""

from ..classes import builtin_classes
from .catalog import data_root, pair_listed, register_splits


def register() -> None:
    """Registers `voc2012_{20,21,20b}_sem_seg_{train,trainaug,val}`."""
    objects = builtin_classes("voc2012")
    without_background = {0: 255} | {number: number - 1 for number in range(1, len(objects) + 1)}
    splits = ("train", "trainaug", "val")
    register_splits("voc2012_20_sem_seg", splits, _load, objects, label_map=without_background)
    register_splits("voc2012_21_sem_seg", splits, _load, objects.with_background())
    known = {*objects.names, "table"}  # which VOC calls diningtable
    rest = [name for name in builtin_classes("pascal_context").names if name not in known]
    register_splits("voc2012_20b_sem_seg", splits, _load, objects.with_background("background", *rest))


def _load(split: str) -> list[dict]:
    root = data_root() / "VOCdevkit" / "VOC2012"
    images, lists = root / "JPEGImages", root / "ImageSets" / "Segmentation"
    if split == "trainaug":
        return pair_listed(images, root / "SegmentationClass", lists / "train.txt") + pair_listed(
            images, root / "SegmentationClassAug", lists / "aug.txt"
        )
    return pair_listed(images, root / "SegmentationClass", lists / f"{split}.txt")
