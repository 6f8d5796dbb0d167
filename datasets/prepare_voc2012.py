#!/usr/bin/env python
"""Prepares the augmented training set of PASCAL VOC 2012 from the SBD annotations (Hariharan et al., ICCV 2011).

Reads   VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt
        benchmark_RELEASE/dataset/{train.txt,val.txt,cls/*.mat}
Writes  VOCdevkit/VOC2012/SegmentationClassAug/*.png and ImageSets/Segmentation/aug.txt: all images that SBD labels and
        VOC's train and val do not (9,118)
from VOCtrainval_11-May-2012.tar and SBD's benchmark.tgz, unpacked in the folder of all datasets. VOC's own label maps
need no conversion; without SBD there is nothing to prepare.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mta_clip.data.datasets.catalog import read_names
from mta_clip.data.prepare import convert_label_maps, load_mat, run_script
from mta_clip.files import complete_file

_CLASSES = 21  # with background; SBD does not mark outlines


def prepare(root: Path, workers: int) -> None:
    """Converts the label maps below the folder of all datasets, and writes the list aug.txt."""
    voc, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
    lists = voc / "ImageSets" / "Segmentation"
    own = {name for split in ("train", "val") for name in read_names(lists / f"{split}.txt")}
    labelled = {name for split in ("train", "val") for name in read_names(sbd / f"{split}.txt")}
    added = sorted(labelled - own)
    convert_label_maps(
        [sbd / "cls" / f"{name}.mat" for name in added],
        [voc / "SegmentationClassAug" / f"{name}.png" for name in added],
        _convert,
        workers=workers,
    )
    with complete_file(lists / "aug.txt") as part:  # last, so that every listed label map exists
        part.write_text("".join(f"{name}\n" for name in added))


def _convert(path: Path) -> NDArray[np.uint8]:
    labels = load_mat(path, "GTcls")["Segmentation"][0, 0]
    if labels.max() >= _CLASSES:
        raise ValueError(f"{path}: label value {labels.max()} is out of range; VOC has 0..{_CLASSES - 1}.")
    return labels.astype(np.uint8)


if __name__ == "__main__":
    sys.exit(run_script(__doc__, prepare))
