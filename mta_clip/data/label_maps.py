"""Reads label maps; errors name the file.

A label map stores one integer per pixel. Datasets differ in the integers they store (0 is void in ADE20K and background
in PASCAL VOC, 11 is unlabelled in CamVid). `label_map` in a dataset's metadata says what a stored value means: {stored
value: class index or ignore label}. A value that it does not mention is a class index or the ignore label itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from detectron2.data.catalog import Metadata
from numpy.typing import NDArray

from .image_files import open_image

# Modes whose pixels are one integer; "P" (palette) pixels are the indices, not the colours.
_LABEL_MODES = ("L", "P", "I", "I;16", "1")
_MANY_VALUES = 20  # values more than there are classes, from which on they seem to be something else


@dataclass(frozen=True, kw_only=True)
class LabelReader:
    """Reads the label maps of one dataset as class indices and checks them.

    Args:
        num_classes: class indices are 0..num_classes - 1.
        ignore_label: value of pixels that belong to no class; not a class index.
        label_map: {stored value: class index or ignore label}; other values stay as they are.

    Raises:
        ValueError: the ignore label is a class index or has over 32 bits, or `label_map` has a stored value that is not
            an integer from 0 on, or a meaning that is neither a class index nor the ignore label.
    """

    num_classes: int
    ignore_label: int = 255
    label_map: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if 0 <= self.ignore_label < self.num_classes:
            raise ValueError(
                f"The ignore label {self.ignore_label} is also the index of one of the {self.num_classes} classes. "
                "Choose another value, such as 255."
            )
        if not -(2**31) <= self.ignore_label < 2**31:
            raise ValueError(
                f"The ignore label {self.ignore_label} has more than 32 bits. Choose another value, such as 255."
            )
        for stored, meant in self.label_map.items():
            if not isinstance(stored, int) or stored < 0:
                raise ValueError(f"label_map has {stored!r} as a stored value; expected an integer from 0 on.")
            if meant != self.ignore_label and not (isinstance(meant, int) and 0 <= meant < self.num_classes):
                raise ValueError(
                    f"label_map turns {stored} into {meant}, which is neither one of the {self.num_classes} "
                    f"classes nor the ignore label {self.ignore_label}."
                )

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> "LabelReader":
        """The reader of a registered dataset, from its `stuff_classes`, `ignore_label` and `label_map`."""
        return cls(
            num_classes=len(metadata.stuff_classes),
            ignore_label=metadata.ignore_label,
            label_map=metadata.get("label_map", {}),
        )

    def read(self, path: str | Path, *, size: tuple[int, int] | None = None) -> NDArray:
        """Reads a label map, (H, W) of class indices and the ignore label: uint8 if all possible values fit, or int32.

        Args:
            size: (height, width) in pixels of the image it belongs to; None: not checked.

        Raises:
            FileNotFoundError, ValueError: see `read_stored_labels`.
            ValueError: it has another size than the image, or a value that is no class index and not the ignore label.
        """
        stored = read_stored_labels(path)
        if size is not None and stored.shape != tuple(size):
            raise ValueError(
                f"{path}: the label map is {width_x_height(stored.shape)} pixels, but its image is "
                f"{width_x_height(size)}. Sizes must be equal: check that the files belong together."
            )
        labels = self.translate(stored)
        wrong = self.unexpected(labels)
        if wrong:
            raise ValueError(
                f"{path}: label value {wrong[0]} is out of range; expected a class index in 0..{self.num_classes - 1} "
                f"or the ignore label {self.ignore_label}. Check the class list, the ignore label, and whether the "
                "label maps were prepared (datasets/README.md)."
            )
        return labels.astype(np.uint8 if max(self.num_classes - 1, self.ignore_label) <= 255 else np.int32)

    def translate(self, stored: NDArray) -> NDArray:
        """Turns stored values (H, W) into class indices, int32; values without an entry in `label_map` stay."""
        if not self.label_map:
            return stored.astype(np.int32)
        if stored.itemsize > 2:  # too many values for a table of all, and some may be negative
            values, places = np.unique(stored, return_inverse=True)
            meant = [self.label_map.get(value, value) for value in values.tolist()]
            return np.array(meant, np.int32)[places].reshape(stored.shape)
        lookup = np.arange(int(stored.max()) + 1, dtype=np.int32)
        for value, meaning in self.label_map.items():
            lookup[value : value + 1] = meaning  # nothing, if no pixel has such a value
        return lookup[stored]

    def unexpected(self, labels: NDArray) -> list[int]:
        """Values in (H, W) that are neither a class index nor the ignore label, ascending."""
        return [int(v) for v in np.unique(labels) if v != self.ignore_label and not 0 <= v < self.num_classes]


def label_map_advice(pixels: Mapping[int, int], *, num_classes: int, ignore_label: int) -> str:
    """What to write into `label_map` if label maps hold values that are no class; "" if all values are expected.

    Args:
        pixels: {value: number of pixels} in the label maps.
        num_classes: see `LabelReader`.
        ignore_label: see `LabelReader`.
    """
    present = sorted(value for value, count in pixels.items() if count and value != ignore_label)
    wrong = [value for value in present if not 0 <= value < num_classes]
    if not wrong:
        return ""
    if len(present) > num_classes + _MANY_VALUES:
        return (
            f"{len(present)} different values for {num_classes} classes look like colours, or like edges blurred by "
            "resizing or JPEG, and not like class indices."
        )
    void = f"If they mean void, add {label_map_option(dict.fromkeys(wrong, ignore_label))}"
    if wrong == [num_classes] and present[0] == 0:
        shifted = {0: ignore_label} | {value: value - 1 for value in range(1, num_classes + 1)}
        counted = f"If labels count from 1, and 0 means void, add {label_map_option(shifted)}"
        return f"{counted}. {void}. Or add a class name."
    if len(present) == num_classes:
        order = {value: index for index, value in enumerate(present)}
        return f"If the values are the classes in the order of their names, add {label_map_option(order)}. {void}."
    return f"{void}. If they are classes, give each its index instead, or add their names to the class list."


def label_map_option(label_map: Mapping[int, int]) -> str:
    """How a `label_map` is written on the command line, and where else."""
    pairs = ", ".join(f"{stored}: {meant}" for stored, meant in label_map.items())
    return f"--label-map '{{{pairs}}}' (label_map in DATASETS.FOLDERS)"


def read_stored_labels(path: str | Path) -> NDArray:
    """Reads the values of a label map as they are stored: (H, W) of an integer type.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image, is truncated, or holds colours.
    """
    with open_image(path, "label map") as image:
        mode = image.mode
        stored = np.array(image)
    if mode not in _LABEL_MODES and not mode.startswith("I;16"):
        raise ValueError(
            f"{path}: the label map has mode {mode}, {stored.ndim} dimensions; expected one integer per pixel "
            "(greyscale or palette PNG). Colours must be turned into class indices first (docs/start.md has the lines)."
        )
    return stored.astype(np.uint8) if mode == "1" else stored


def width_x_height(shape: tuple[int, ...]) -> str:
    """A size as people write it: (360, 480) -> "480x360"."""
    return f"{shape[1]}x{shape[0]}"
