"""Reading images and label maps, with every fault of a file reported by its name.

A label map stores one integer per pixel. Which integers a dataset stores is its own affair (ADE20K has 0 for void,
CamVid 11, PASCAL VOC counts the background as 0); `label_map` of its metadata says what a stored value means:
{stored value: class index or ignore label}. Values that it does not mention mean themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from detectron2.data import detection_utils
from detectron2.data.catalog import Metadata
from numpy.typing import NDArray
from PIL import Image

# Modes whose pixels are one integer; "P" (palette) pixels are the indices, not the colours.
_LABEL_MODES = ("L", "P", "I", "I;16", "1")


@dataclass(frozen=True, kw_only=True)
class LabelReader:
    """Reads the label maps of one dataset as class indices and checks them."""

    num_classes: int
    ignore_label: int = 255
    label_map: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if 0 <= self.ignore_label < self.num_classes:
            raise ValueError(
                f"The ignore label {self.ignore_label} is also the index of one of the {self.num_classes} classes. "
                "Choose a value outside of them, such as 255."
            )
        for stored, meant in self.label_map.items():
            if not isinstance(stored, int) or stored < 0:
                raise ValueError(f"The label map has {stored!r} as a stored value; expected an integer from 0 on.")
            if meant != self.ignore_label and not 0 <= meant < self.num_classes:
                raise ValueError(
                    f"The label map turns {stored} into {meant}, which is neither one of the {self.num_classes} "
                    f"classes nor the ignore label {self.ignore_label}."
                )

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> "LabelReader":
        return cls(
            num_classes=len(metadata.stuff_classes),
            ignore_label=metadata.ignore_label,
            label_map=metadata.get("label_map", {}),
        )

    def read(self, path: str | Path, *, size: tuple[int, int] | None = None) -> NDArray:
        """Reads a label map.

        Args:
            size: (height, width) in pixels of the image it belongs to; None: not checked.

        Returns:
            (H, W) of class indices or the ignore label; uint8 if all of them fit, else int32.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file cannot be decoded, has colours instead of numbers, another size than the image, or a
                value that is neither a class nor ignored.
        """
        stored = read_stored_labels(path)
        if size is not None and stored.shape != tuple(size):
            raise ValueError(
                f"{path}: the label map is {_width_x_height(stored.shape)} pixels, but its image is "
                f"{_width_x_height(size)}. They must be equal: check that the files belong together."
            )
        labels = self.translate(stored)
        wrong = self.unexpected(labels)
        if wrong:
            raise ValueError(
                f"{path}: label value {wrong[0]} is out of range; expected a class index of 0..{self.num_classes - 1} "
                f"or the ignore label {self.ignore_label}. Check the class list, the ignore label, and whether the "
                "label maps were prepared (datasets/README.md)."
            )
        return labels.astype(np.uint8 if max(self.num_classes - 1, self.ignore_label) <= 255 else np.int32)

    def translate(self, stored: NDArray) -> NDArray:
        """Turns stored values into class indices; values without an entry in `label_map` stay. (H, W) int32."""
        stored = stored.astype(np.int32)
        if not self.label_map:
            return stored
        lookup = np.arange(max(int(stored.max()), *self.label_map) + 1, dtype=np.int32)
        for value, meant in self.label_map.items():
            lookup[value] = meant
        return lookup[stored]

    def unexpected(self, labels: NDArray) -> list[int]:
        """Values in (H, W) that are neither a class index nor the ignore label, ascending."""
        return [int(v) for v in np.unique(labels) if v != self.ignore_label and not 0 <= v < self.num_classes]


def read_image(path: str | Path, *, image_format: str = "RGB") -> NDArray:
    """Reads an image as (H, W, 3) uint8, turned upright by its EXIF orientation.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image, or is truncated.
    """
    path = _existing(path, "image")
    try:
        return detection_utils.read_image(str(path), format=image_format)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises
        raise ValueError(f"{path}: the image cannot be read ({error}). Replace or remove the file.") from error


def read_stored_labels(path: str | Path) -> NDArray:
    """Reads a label map's values as they are stored: (H, W), an integer type.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image, is truncated, or holds colours.
    """
    path = _existing(path, "label map")
    try:
        with Image.open(path) as image:
            mode = image.mode
            stored = np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: the label map cannot be read ({error}). Replace or remove the file.") from error
    if mode not in _LABEL_MODES and not mode.startswith("I;16"):
        raise ValueError(
            f"{path}: the label map has mode {mode}, {stored.ndim} dimensions; expected one integer per pixel "
            "(greyscale or palette PNG). Label maps drawn in colours must be turned into class indices first."
        )
    return stored.astype(np.uint8) if mode == "1" else stored


def _existing(path: str | Path, what: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this {what} does not exist.")
    return path


def _width_x_height(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
