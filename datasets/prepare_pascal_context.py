#!/usr/bin/env python
"""Prepares PASCAL Context: all of its 459 classes, and the 59 most frequent ones.

Reads   pascal_context/labels.txt and pascal_context/trainval/*.mat (array LabelMap, values 1..459)
Writes  VOCdevkit/VOC2010/SegmentationClassContext/*.png: 1..59 in the order of mta_clip/data/class_names/
        pascal_context.txt, 0 = any other class
        VOCdevkit/VOC2010/SegmentationClassContext459/*.png (16 bit): 0..458, 65535 = unlabelled
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

_ALL = 459
_UNLABELLED = 65535


def prepare(root: Path, workers: int) -> None:
    """Converts the label maps below the folder of all datasets."""
    context = root / "pascal_context"
    lookup = _lookup(context / "labels.txt")
    sources = find_files(context / "trainval", "*.mat", download="trainval.tar.gz")
    for folder, convert in (
        ("SegmentationClassContext", functools.partial(_keep_59, lookup)),
        ("SegmentationClassContext459", _keep_all),
    ):
        targets = [root / "VOCdevkit" / "VOC2010" / folder / f"{source.stem}.png" for source in sources]
        convert_label_maps(sources, targets, convert, workers=workers)


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


def _keep_59(lookup: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    return lookup[_read(path, classes=len(lookup) - 1)]


def _keep_all(path: Path) -> NDArray[np.uint16]:
    labels = _read(path, classes=_ALL).astype(np.int32)
    return np.where(labels == 0, _UNLABELLED, labels - 1).astype(np.uint16)


def _read(path: Path, *, classes: int) -> NDArray[np.uint16]:
    labels = load_mat(path, "LabelMap")
    if labels.max() > classes:
        raise ValueError(f"{path}: label value {labels.max()} is not in the list of {classes} classes.")
    return labels


if __name__ == "__main__":
    sys.exit(run_script(__doc__, prepare))
