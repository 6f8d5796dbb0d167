"""Saves the predictions of an evaluation: label PNGs, or one COCO JSON file of run-length encoded masks.

Shapes: H, W image size.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
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
    """Collects predictions as COCO results; at the end the main process writes them, and beside them the images.

    Results are a list of {"image_id", "category_id", "score", "segmentation": {"size", "counts"}, "file_name"}, one per
    image and class in it; the score is 1, as a label map has none. The images and categories are a COCO dataset without
    annotations, so that pycocotools reads the results with `COCO(images).loadRes(predictions)`.

    Args:
        path: of the results; the images are in `<name>_images.json` beside them.
        images: paths of all images that will be predicted; see `image_ids`.
        class_names: of the C classes.
        dataset_ids: {class index: category id}; classes without an entry keep their index.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        images: Iterable[str],
        class_names: Sequence[str],
        dataset_ids: Mapping[int, int] | None = None,
    ):
        self._path = Path(path)
        self._ids = image_ids(list(images))
        ids = dataset_ids or {}
        self._categories = [{"id": ids.get(index, index), "name": name} for index, name in enumerate(class_names)]
        self._images: list[dict[str, Any]] = []
        self._segments: list[dict[str, Any]] = []

    def write(self, image: str, labels: NDArray[np.integer]) -> None:
        """Adds one prediction, (H, W) class indices."""
        of_image = {"image_id": self._ids[image], "file_name": image}
        self._images.append(
            {"id": self._ids[image], "file_name": image, "height": len(labels), "width": len(labels[0])}
        )
        for label in np.unique(labels).tolist():
            segment = {"category_id": self._categories[label]["id"], "score": 1.0}
            self._segments.append(of_image | segment | {"segmentation": run_length(labels == label)})

    def finish(self) -> None:
        """Joins the segments of all processes and writes them; every process must call this; raises OSError."""
        parts = comm.gather((self._images, self._segments))
        if not comm.is_main_process():
            return
        images, segments = ([item for part in parts for item in part[which]] for which in (0, 1))
        dataset = {"info": {}, "images": images, "annotations": [], "categories": self._categories}
        with complete_file(self._path) as part:
            part.write_text(json.dumps(segments))
        with complete_file(self._path.with_stem(f"{self._path.stem}_images")) as part:
            part.write_text(json.dumps(dataset))


def image_ids(images: Sequence[str]) -> dict[str, int]:
    """COCO ids of images: {path: id}.

    The number that is the file's name, as in COCO (000000000139.jpg is 139), if all are numbers and differ; else 1, 2,
    ... in the order given.
    """
    names = [Path(image).stem for image in images]
    ids = [int(name) for name in names if name.isdecimal()]
    if len(set(ids)) < len(images):
        ids = list(range(1, len(images) + 1))
    return dict(zip(images, ids, strict=True))


def run_length(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's run-length encoding of a mask (H, W): {"size": [H, W], "counts": text}, ready for JSON."""
    segment = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return segment | {"counts": segment["counts"].decode("ascii")}
