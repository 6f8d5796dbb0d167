#!/usr/bin/env python
"""Prepares Cityscapes: converts the 34 label ids to train ids 0..18 (255 = ignored).

Reads   cityscapes/gtFine/{train,val}/<city>/*_gtFine_labelIds.png
Writes  cityscapes/gtFine/{train,val}/<city>/*_gtFine_labelTrainIds.png, as the official tools do
from gtFine_trainvaltest.zip, unpacked in cityscapes/.
"""

import sys
from pathlib import Path

from mta_clip.data.label_maps import LabelReader
from mta_clip.data.prepare import convert_label_maps, find_files, run_script

# Label ids of the 19 classes in the order of their train ids (labels.py of the official tools).
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_NUM_LABEL_IDS = 34
_READER = LabelReader(
    num_classes=len(_LABEL_IDS),
    label_map=dict.fromkeys(range(_NUM_LABEL_IDS), 255) | {label: k for k, label in enumerate(_LABEL_IDS)},
)


def prepare(root: Path, workers: int) -> None:
    """Converts the label maps below the folder of all datasets."""
    folder = root / "cityscapes" / "gtFine"
    sources = [
        source
        for split in ("train", "val")  # the test split has no public labels
        for source in find_files(folder / split, "*/*_labelIds.png", download="gtFine_trainvaltest.zip")
    ]
    targets = [source.with_name(source.name.replace("_labelIds", "_labelTrainIds")) for source in sources]
    convert_label_maps(sources, targets, _READER.read, workers=workers)


if __name__ == "__main__":
    sys.exit(run_script(__doc__, prepare))
