"""ADE20K-150 and ADE20K-847.

ADE20K-150 (SceneParsing benchmark): train 20,210, val 2,000 images. Ignored: void, 255 after preparation. Layout:
$DETECTRON2_DATASETS/ADEChallengeData2016/{images,annotations_detectron2}/{training,validation}, the latter made by
datasets/prepare_ade20k.py (Detectron2's script makes the same files). Detectron2 registers these images as
`ade20k_sem_seg_*`, with all synonyms of a class in its name; here each class has one short name.

ADE20K-847 (the full ADE20K, release ADE20K_2021_17_01): train 25,574, val 2,000 images; classes have all their names.
Ignored: all other objects, 65535 (16 bit). Layout: $DETECTRON2_DATASETS/ADE20K_2021_17_01/{images_detectron2,
annotations_detectron2}/{training,validation}, made by datasets/prepare_ade20k_847.py.
"""

from ..classes import builtin_classes
from .catalog import data_root, pair_folders, register_splits

_FOLDERS = {"train": "training", "val": "validation"}


def register() -> None:
    """Registers `ade20k_{150,847}_sem_seg_{train,val}`."""
    register_splits("ade20k_150_sem_seg", _FOLDERS, _load, builtin_classes("ade20k"))
    register_splits("ade20k_847_sem_seg", _FOLDERS, _load_847, builtin_classes("ade20k_847"), ignore_label=65535)


def _load(split: str) -> list[dict]:
    root, folder = data_root() / "ADEChallengeData2016", _FOLDERS[split]
    return pair_folders(root / "images" / folder, root / "annotations_detectron2" / folder)


def _load_847(split: str) -> list[dict]:
    root, folder = data_root() / "ADE20K_2021_17_01", _FOLDERS[split]
    return pair_folders(root / "images_detectron2" / folder, root / "annotations_detectron2" / folder)
