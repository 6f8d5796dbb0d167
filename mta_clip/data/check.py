"""Reads every file of a dataset and says what is wrong; the command is `mta-clip check`.

`python -m mta_clip.data.check` is the same command.
"""

import functools
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from matplotlib.figure import Figure
from tabulate import tabulate

from .build import check_training_config, load_dataset_dicts
from .classes import short_name
from .image_files import image_depth, read_image
from .label_maps import LabelReader, label_map_advice, label_map_option, read_stored_labels, width_x_height
from .model_classes import with_classes
from .parallel import map_files

logger = logging.getLogger(__name__)

_MAX_IGNORED = 0.98  # share of all pixels; VOC without background ignores about 3 of 4
_DARK = 64  # 16-bit images whose values, as read (0..255), never exceed this may hold 10 to 14 bits
_SHOWN = 10  # how many files of each kind of trouble are named


@dataclass
class FileFindings:
    """What was found in one image and its label map."""

    label_file: str
    size: tuple[int, int] | None = None  # height, width in pixels
    depth: str = ""  # such as "8-bit RGB"
    brightest: int = 0  # largest value of the image as it is read, 0..255
    pixels: dict[int, int] = field(default_factory=dict)  # by class index, ignore label or unexpected value
    problem: str | None = None


@dataclass
class DatasetFindings:
    """Sums over all files; C classes."""

    class_names: Sequence[str]
    ignore_label: int
    sizes: Counter = field(default_factory=Counter)
    depths: Counter = field(default_factory=Counter)  # images by bit depth
    brightest: dict[str, int] = field(default_factory=dict)  # by bit depth
    pixels: Counter = field(default_factory=Counter)  # by value after `label_map`
    images: Counter = field(default_factory=Counter)  # images that have the value
    first_file: dict[int, str] = field(default_factory=dict)  # first label map that has the value
    problems: list[str] = field(default_factory=list)

    def add(self, found: FileFindings) -> None:
        """Adds the findings of one file; a file with a problem counts only as a problem."""
        if found.problem:
            self.problems.append(found.problem)
            return
        self.sizes[found.size] += 1
        self.depths[found.depth] += 1
        self.brightest[found.depth] = max(found.brightest, self.brightest.get(found.depth, 0))
        for value, count in found.pixels.items():
            self.pixels[value] += count
            self.images[value] += 1
            self.first_file.setdefault(value, found.label_file)

    def unexpected(self) -> list[int]:
        """Values that are neither a class index nor the ignore label, ascending."""
        return sorted(v for v in self.pixels if v != self.ignore_label and not 0 <= v < len(self.class_names))

    def troubles(self) -> list[str]:
        """What has to be fixed before training, one sentence each."""
        troubles = self._problems_by_kind()
        troubles += [
            f"value {v} is out of range (label maps: {self.images[v]}, pixels: {self.pixels[v]}), first in "
            f"{self.first_file[v]}"
            for v in self.unexpected()[:_SHOWN]
        ]
        total = self.pixels.total()
        if total and self.pixels[self.ignore_label] > _MAX_IGNORED * total:
            troubles.append(
                f"{self.pixels[self.ignore_label] / total:.1%} of all pixels have the ignore label "
                f"{self.ignore_label}: is it really the one to ignore?"
            )
        absent = [index for index in range(len(self.class_names)) if not self.pixels[index]]
        if len(self.class_names) == 2 and len(absent) == 1 and self.pixels[self.ignore_label]:  # masks of 0 and 255
            troubles.append(
                f"{self.class_names[absent[0]]!r} has no pixel. If {self.ignore_label} means it, add "
                f"{label_map_option({self.ignore_label: absent[0]})}"
            )
        return troubles

    def advice(self) -> str:
        """What to do about values that are no class; "" if there are none."""
        return label_map_advice(self.pixels, num_classes=len(self.class_names), ignore_label=self.ignore_label)

    def _problems_by_kind(self) -> list[str]:
        """Problems that differ only in the file are one sentence, which names the first file."""
        files: dict[str, list[str]] = {}
        for problem in self.problems:
            file, separator, text = problem.partition(": ")
            files.setdefault(separator + text, []).append(file)
        told = [
            f"{first}{text}" + (f" (and files like it: {len(others)})" if others else "")
            for text, (first, *others) in files.items()
        ]
        return told if len(told) <= _SHOWN else [*told[:_SHOWN], f"... and other problems: {len(told) - _SHOWN}"]

    def notes(self) -> list[str]:
        """What may be intended but is worth a look, one sentence each."""
        absent = [short_name(name) for index, name in enumerate(self.class_names) if not self.pixels[index]]
        notes = [f"no pixel has the class {', '.join(absent)}"] if absent else []
        if not self.pixels[self.ignore_label]:
            notes.append(f"no pixel has the ignore label {self.ignore_label}")
        notes += [
            f"no {depth} image is brighter than {brightest} of 255: if the values use fewer than 16 bits, as those of "
            "many sensors do, scale them up, because the range of the file is what counts"
            for depth, brightest in self.brightest.items()
            if depth.startswith("16-bit") and brightest <= _DARK
        ]
        return notes


def check_dataset(name: str, *, workers: int = 0) -> DatasetFindings:
    """Reads every image and label map of a registered dataset, with `workers` processes (0: only this one).

    Raises:
        KeyError: no dataset of that name is registered.
        FileNotFoundError: a folder or a file of a pair is missing.
        ValueError: the dataset is empty, is not for semantic segmentation, or its metadata contradict each other.
    """
    records, reader, findings = _opened(name)
    for found in map_files(functools.partial(inspect_file, reader), records, workers=workers, description="Checking"):
        findings.add(found)
    return findings


def check_training_data(cfg: CfgNode, *, sample: int = 20) -> None:
    """A quick look at what a config trains and evaluates on, before weights are downloaded and a model is built.

    All images must have a label map; the files of `sample` images of each dataset are read. Does nothing without
    DATASETS.TRAIN.

    Raises:
        KeyError, FileNotFoundError: see `check_dataset`.
        ValueError: see `check_dataset` and `check_training_config`; or a file of the sample cannot be read, its sizes
            differ, or a label value is neither a class nor the ignore label.
    """
    if not cfg.DATASETS.TRAIN:
        return
    check_training_config(cfg)
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        records, reader, findings = _opened(name)
        for record in records[:: max(1, len(records) // sample)][:sample]:
            findings.add(inspect_file(reader, record))
        troubles = [f"{name}: {trouble}" for trouble in findings.troubles()]
        if findings.problems or findings.unexpected():
            own = any(entry["name"] == name for entry in cfg.DATASETS.FOLDERS)
            how = ", with the same --config-file; or `mta-clip check` with the same --data," if own else ""
            all_files = f"`mta-clip check {name}`{how} reads all of its files."
            raise ValueError("\n".join(filter(None, [*troubles, findings.advice(), all_files])))
        for trouble in troubles:
            logger.warning("In a sample of %d images of %s", findings.sizes.total(), trouble)


def _opened(name: str) -> tuple[list[dict], LabelReader, DatasetFindings]:
    """The dataset dicts of a dataset, what reads its label maps, and findings without any file yet."""
    records = load_dataset_dicts([name])
    metadata = MetadataCatalog.get(name)
    if "sem_seg_file_name" not in records[0] or not metadata.get("stuff_classes"):
        raise ValueError(
            f"{name!r} is not a dataset for semantic segmentation: it has no label maps or no class names."
        )
    reader = LabelReader.from_metadata(metadata)
    return records, reader, DatasetFindings(metadata.stuff_classes, reader.ignore_label)


def inspect_file(reader: LabelReader, record: dict) -> FileFindings:
    """Reads one image and its label map; a file that cannot be read is a finding, not an error."""
    found = FileFindings(record["sem_seg_file_name"])
    try:
        image = read_image(record["file_name"])
        found.size, found.brightest = image.shape[:2], int(image.max())
        found.depth = image_depth(record["file_name"])
        labels = reader.translate(read_stored_labels(found.label_file))
    except (OSError, ValueError) as error:
        found.problem = str(error)
        return found
    if labels.shape != found.size:
        found.problem = (
            f"{found.label_file}: the label map is {width_x_height(labels.shape)} pixels, but its image is "
            f"{width_x_height(found.size)}"
        )
    values, counts = np.unique(labels, return_counts=True)
    found.pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return found


def format_findings(findings: DatasetFindings) -> str:
    """Counts, sizes and the table of classes, as text."""
    total = max(findings.pixels.total(), 1)
    values = [*range(len(findings.class_names)), findings.ignore_label, *findings.unexpected()]
    names = [*map(short_name, findings.class_names), "(ignored)", *["(out of range)"] * len(findings.unexpected())]
    rows = [
        (value, name, f"{100 * findings.pixels[value] / total:.3f}", findings.images[value])
        for value, name in zip(values, names, strict=True)
    ]
    sizes = ", ".join(f"{width_x_height(size)} ({count})" for size, count in findings.sizes.most_common(5))
    depths = ", ".join(f"{depth} ({count})" for depth, count in findings.depths.most_common())
    more = f" and {len(findings.sizes) - 5} others" if len(findings.sizes) > 5 else ""
    return (
        f"{findings.sizes.total()} pairs of image and label map; width x height (images): {sizes}{more}\n"
        f"bit depth (images): {depths}\n"
        + tabulate(
            rows, headers=("value", "class", "% of pixels", "images"), colalign=("right", "left", "right", "right")
        )
    )


def draw_findings(findings: DatasetFindings, colors: Iterable[Sequence[int]], title: str) -> Figure:
    """Draws bars of every class, in its RGB color: its share of the pixels (logarithmic) and of the images, percent."""
    names = [*map(short_name, findings.class_names), "(ignored)"]
    values = [*range(len(findings.class_names)), findings.ignore_label]
    fills = np.array([*colors, (0, 0, 0)]) / 255
    figure = Figure(figsize=(12, 1.5 + 0.2 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    of_pixels = [100 * findings.pixels[value] / max(findings.pixels.total(), 1) for value in values]
    of_images = [100 * findings.images[value] / max(findings.sizes.total(), 1) for value in values]
    for axes, shares, what in ((left, of_pixels, "pixels"), (right, of_images, "images")):
        axes.barh(range(len(names)), shares, color=fills, edgecolor="0.4", linewidth=0.5)
        axes.set_xlabel(f"% of {what}")
        axes.grid(axis="x", alpha=0.3)
    if any(of_pixels):
        left.set_xscale("log")
        left.set_xlim(left=0.5 * min(filter(None, of_pixels)))
    left.set_yticks(range(len(names)), names, fontsize=7)
    left.invert_yaxis()
    figure.suptitle(f"{title}: {findings.sizes.total()} images")
    return figure


def config_troubles(cfg: CfgNode, name: str) -> list[str]:
    """Keys in which a config that trains on the dataset contradicts it, one sentence each."""
    if name not in cfg.DATASETS.TRAIN:
        return []
    metadata, head = MetadataCatalog.get(name), with_classes(cfg).MODEL.SEM_SEG_HEAD
    pairs = (("NUM_CLASSES", len(metadata.stuff_classes)), ("IGNORE_VALUE", metadata.ignore_label))
    return [
        f"MODEL.SEM_SEG_HEAD.{key} is {head[key]} in the config, but should be {value}"
        for key, value in pairs
        if head[key] != value
    ]


if __name__ == "__main__":
    from mta_clip.cli.main import main

    sys.exit(main(["check", *sys.argv[1:]]))
