"""Saves the predictions of an evaluation: label PNGs, or one COCO JSON file of run-length encoded masks.

Shapes: H, W image size.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
from detectron2.utils import comm
from numpy.typing import NDArray

from ..files import complete_file, png_names
from ..visualization import save_label_map

FORMATS = ("none", "png", "rle")


class LabelMapWriter:
    """Writes every prediction immediately, as a PNG file in `folder`; pixel values are class indices.

    Args:
        images: paths of all images that will be predicted; `png_names` names their files.
        colors: (C, 3) RGB palette of the files, 0..255; None: greyscale.
    """

    def __init__(self, *, folder: str | Path, images: Iterable[str], colors: NDArray[np.uint8] | None = None):
        self._colors = colors
        self._paths = {image: Path(folder) / name for image, name in png_names(list(images)).items()}

    def write(self, image: str, labels: NDArray[np.integer]) -> None:
        """Writes one prediction, (H, W) class indices; for errors see `save_label_map`."""
        save_label_map(labels, self._paths[image], self._colors)

    def finish(self) -> None:
        """Does nothing: every file is already complete."""


class RunLengthWriter:
    """Collects predictions as COCO stuff segments; at the end the main process writes them into one JSON file.

    Args:
        path: of the JSON file, a list of {"file_name", "category_id", "segmentation": {"size", "counts"}}.
        dataset_ids: {class index: category id}; classes without an entry keep their index.
    """

    def __init__(self, *, path: str | Path, dataset_ids: Mapping[int, int] | None = None):
        self._path = Path(path)
        self._dataset_ids = dataset_ids or {}
        self._segments: list[dict[str, Any]] = []

    def write(self, image: str, labels: NDArray[np.integer]) -> None:
        """Adds one prediction, (H, W) class indices."""
        for label in np.unique(labels).tolist():
            category = self._dataset_ids.get(label, label)
            segment = {"file_name": image, "category_id": category, "segmentation": run_length(labels == label)}
            self._segments.append(segment)

    def finish(self) -> None:
        """Joins the segments of all processes and writes them; every process must call this; raises OSError."""
        parts = comm.gather(self._segments)
        if comm.is_main_process():
            with complete_file(self._path) as part:
                part.write_text(json.dumps([segment for segments in parts for segment in segments]))


def run_length(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's run-length encoding of a mask (H, W): {"size": [H, W], "counts": text}, ready for JSON."""
    segment = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return segment | {"counts": segment["counts"].decode("ascii")}
