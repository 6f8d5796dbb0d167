#!/usr/bin/env python
"""Prepares COCO-Stuff 164K: 171 class indices without gaps, 255 = unlabelled.

Reads   coco/stuffthingmaps/{train2017,val2017}/*.png, whose values are the dataset's ids 1..182 minus one, with gaps
Writes  coco/stuffthingmaps_171/{train2017,val2017}/*.png
from stuffthingmaps_trainval2017.zip, unpacked in coco/stuffthingmaps/ (its folders have the same names as those of the
images).
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mta_clip.data.datasets.coco_stuff import CLASS_IDS, UNUSED_IDS
from mta_clip.data.label_maps import LabelReader, read_stored_labels
from mta_clip.data.prepare import convert_label_maps, find_files, run_script

_READER = LabelReader(num_classes=len(CLASS_IDS), label_map={number - 1: k for k, number in enumerate(CLASS_IDS)})


def prepare(root: Path, workers: int) -> None:
    """Converts the label maps below the folder of all datasets."""
    folder = root / "coco"
    sources = find_files(folder / "stuffthingmaps", "*2017/*.png", download="stuffthingmaps_trainval2017.zip")
    targets = [folder / "stuffthingmaps_171" / source.parent.name / source.name for source in sources]
    convert_label_maps(sources, targets, _convert, workers=workers)


def _convert(path: Path) -> NDArray[np.uint8]:
    unused = sorted({int(value) + 1 for value in np.unique(read_stored_labels(path))} & set(UNUSED_IDS))
    if unused:  # the file may hold class indices already, which would be mistaken for ids
        raise ValueError(
            f"{path}: COCO-Stuff has no class with id {unused[0]}. Has this file been converted already? Unpack "
            "stuffthingmaps_trainval2017.zip again."
        )
    return _READER.read(path)


if __name__ == "__main__":
    sys.exit(run_script(__doc__, prepare))
