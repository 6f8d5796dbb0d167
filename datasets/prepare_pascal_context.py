#!/usr/bin/env python
"""Prepares PASCAL Context: keeps the 59 most frequent of its 459 classes.

Reads   pascal_context/labels.txt and pascal_context/trainval/*.mat (array LabelMap, values 1..459)
Writes  VOCdevkit/VOC2010/SegmentationClassContext/*.png: 1..59 in the order of mta_clip/data/class_names/
        pascal_context.txt, 0 = any other class
from labels.txt and trainval.tar.gz of the PASCAL Context page, unpacked in pascal_context/. The images and the lists
of train and val (ImageSets/Main) come from VOC 2010 (VOCtrainval_03-May-2010.tar), unpacked in the folder of all
datasets.
"""

import functools
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mta_clip.data.classes import builtin_classes
from mta_clip.data.prepare import convert_label_maps, find_files, load_mat, run_script


def prepare(root: Path, workers: int) -> None:
    """Converts the label maps below the folder of all datasets."""
    context = root / "pascal_context"
    lookup = _lookup(context / "labels.txt")
    sources = find_files(context / "trainval", "*.mat", download="trainval.tar.gz")
    folder = root / "VOCdevkit" / "VOC2010" / "SegmentationClassContext"
    targets = [folder / f"{source.stem}.png" for source in sources]
    convert_label_maps(sources, targets, functools.partial(_convert, lookup), workers=workers)


def _lookup(label_file: Path) -> NDArray[np.uint8]:
    """Table from the ids in the list of all classes ("2: aeroplane") to 0..59."""
    if not label_file.is_file():
        raise FileNotFoundError(f"{label_file}: the list of all classes is missing (see datasets/README.md).")
    ids = {}
    for line in label_file.read_text(encoding="utf-8").splitlines():
        number, _, name = line.partition(":")
        if name.strip():
            ids[name.strip()] = int(number)
    names = builtin_classes("pascal_context").names
    missing = [name for name in names if name not in ids]
    if missing:
        raise ValueError(f"{label_file}: the classes {missing} are not in this list. Is it the list of 459 classes?")
    lookup = np.zeros(max(ids.values()) + 1, np.uint8)
    lookup[[ids[name] for name in names]] = np.arange(1, len(names) + 1)
    return lookup


def _convert(lookup: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    labels = load_mat(path, "LabelMap")
    if labels.max() >= len(lookup):
        raise ValueError(f"{path}: label value {labels.max()} is not in the list of {len(lookup) - 1} classes.")
    return lookup[labels]


if __name__ == "__main__":
    sys.exit(run_script(__doc__, prepare))
