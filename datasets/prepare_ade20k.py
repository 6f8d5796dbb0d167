#!/usr/bin/env python
"""Prepares ADE20K-150: class indices start at 0 instead of 1, and void is 255 instead of 0.

Reads   ADEChallengeData2016/annotations/{training,validation}/*.png
Writes  ADEChallengeData2016/annotations_detectron2/{training,validation}/*.png
from ADEChallengeData2016.zip of the SceneParsing benchmark, unpacked in the folder of all datasets.
"""

import sys
from pathlib import Path

from mta_clip.data.label_maps import LabelReader
from mta_clip.data.prepare import convert_label_maps, find_files, run_script

_CLASSES = 150
_READER = LabelReader(num_classes=_CLASSES, label_map={0: 255} | {k: k - 1 for k in range(1, _CLASSES + 1)})


def prepare(root: Path, workers: int) -> None:
    """Converts the label maps below the folder of all datasets."""
    folder = root / "ADEChallengeData2016"
    sources = find_files(folder / "annotations", "*/*.png", download="ADEChallengeData2016.zip")
    targets = [folder / "annotations_detectron2" / source.parent.name / source.name for source in sources]
    convert_label_maps(sources, targets, _READER.read, workers=workers)


if __name__ == "__main__":
    sys.exit(run_script(__doc__, prepare))
