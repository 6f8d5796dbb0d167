"""Reads every file of a dataset before a long training run does: `python -m mta_clip.data.check NAME`.

    python -m mta_clip.data.check ade20k_150_sem_seg_train
    python -m mta_clip.data.check garden_train --config-file configs/garden.yaml     # from DATASETS.FOLDERS

Prints counts, sizes and a table of the classes, and draws the table to `<output>/<name>.png`. The exit status is 1 if
it finds trouble: files that are missing, unreadable or do not fit together, label values out of range, or an ignore
label that covers nearly all pixels.
"""

import argparse
import functools
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tabulate import tabulate

from ..config_loader import load_config
from ..files import complete_file
from .build import load_dataset_dicts
from .classes import short_name
from .datasets.folder import register_folders
from .label_maps import LabelReader, read_image, read_stored_labels, width_x_height
from .model_classes import with_classes
from .parallel import map_files

logger = logging.getLogger(__name__)

_MAX_IGNORED = 0.98  # share of all pixels; VOC without background ignores about 3 of 4
_SHOWN = 10  # how many files of each kind of trouble are named


@dataclass
class FileFindings:
    """What was found in one image and its label map."""

    label_file: str
    size: tuple[int, int] | None = None  # height, width in pixels
    pixels: dict[int, int] = field(default_factory=dict)  # by class index, ignore label or unexpected value
    problem: str | None = None


@dataclass
class DatasetFindings:
    """Sums over all files; C classes."""

    class_names: Sequence[str]
    ignore_label: int
    sizes: Counter = field(default_factory=Counter)
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
        for value, count in found.pixels.items():
            self.pixels[value] += count
            self.images[value] += 1
            self.first_file.setdefault(value, found.label_file)

    def unexpected(self) -> list[int]:
        """Values that are neither a class index nor the ignore label, ascending."""
        return sorted(v for v in self.pixels if v != self.ignore_label and not 0 <= v < len(self.class_names))

    def troubles(self) -> list[str]:
        """What has to be fixed before training, one sentence each."""
        troubles = self.problems[:_SHOWN]
        if len(self.problems) > _SHOWN:
            troubles.append(f"... and {len(self.problems) - _SHOWN} more files like these.")
        wrong = self.unexpected()
        troubles += [
            f"value {v} is out of range in {self.images[v]} label maps ({self.pixels[v]} pixels), first in "
            f"{self.first_file[v]}"
            for v in wrong[:_SHOWN]
        ]
        if wrong:
            troubles.append(self._advice(wrong))
        total = self.pixels.total()
        if total and self.pixels[self.ignore_label] > _MAX_IGNORED * total:
            troubles.append(
                f"{self.pixels[self.ignore_label] / total:.1%} of all pixels have the ignore label "
                f"{self.ignore_label}: is it really the one to ignore?"
            )
        return troubles

    def _advice(self, wrong: list[int]) -> str:
        count = len(self.class_names)
        if wrong == [count] and self.pixels[0]:
            return (
                f"The values go from 0 to {count} for {count} classes. If they count from 1 and 0 is void, map them "
                "(label_map: {0: ignore label, 1: 0, 2: 1, ...}); if there is one more class, add its name."
            )
        if len(wrong) == 1:
            return f"If {wrong[0]} means void, make it the ignore label, or map it to {self.ignore_label} (label_map)."
        return (
            f"Expected class indices 0..{count - 1} and the ignore label {self.ignore_label}: is the class list right?"
        )

    def notes(self) -> list[str]:
        """What may be intended but is worth a look, one sentence each."""
        absent = [name for index, name in enumerate(self.class_names) if not self.pixels[index]]
        notes = [f"{len(absent)} classes have no pixel: {', '.join(absent)}"] if absent else []
        if not self.pixels[self.ignore_label]:
            notes.append(f"no pixel has the ignore label {self.ignore_label}")
        return notes


def check_dataset(name: str, *, workers: int = 0) -> DatasetFindings:
    """Reads every image and label map of a registered dataset, with `workers` processes (0: only this one).

    Raises:
        KeyError: no dataset of that name is registered.
        FileNotFoundError: a folder or a file of a pair is missing.
        ValueError: the dataset is empty, is not for semantic segmentation, or its metadata contradict each other.
    """
    records = load_dataset_dicts([name])
    metadata = MetadataCatalog.get(name)
    if "sem_seg_file_name" not in records[0] or not metadata.get("stuff_classes"):
        raise ValueError(
            f"{name!r} is not a dataset for semantic segmentation: it has no label maps or no class names."
        )
    reader = LabelReader.from_metadata(metadata)
    findings = DatasetFindings(metadata.stuff_classes, reader.ignore_label)
    for found in map_files(functools.partial(inspect_file, reader), records, workers=workers, description="Checking"):
        findings.add(found)
    return findings


def inspect_file(reader: LabelReader, record: dict) -> FileFindings:
    """Reads one image and its label map; a file that cannot be read is a finding, not an error."""
    found = FileFindings(record["sem_seg_file_name"])
    try:
        found.size = read_image(record["file_name"]).shape[:2]
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
    more = f" and {len(findings.sizes) - 5} others" if len(findings.sizes) > 5 else ""
    return (
        f"{findings.sizes.total()} pairs of image and label map; width x height (images): {sizes}{more}\n"
        + tabulate(
            rows, headers=("value", "class", "% of pixels", "images"), colalign=("right", "left", "right", "right")
        )
    )


def draw_findings(findings: DatasetFindings, colors: Iterable[Sequence[int]], title: str) -> Figure:
    """Draws bars of every class, in its RGB color: its share of the pixels (logarithmic) and of the images, percent."""
    names = [*map(short_name, findings.class_names), "(ignored)"]
    values = [*range(len(findings.class_names)), findings.ignore_label]
    fills: NDArray = np.array([*colors, (0, 0, 0)]) / 255
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 1 if there is trouble."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the dataset, as in DATASETS.TRAIN")
    help_config = "config whose DATASETS.FOLDERS describes the dataset, or that trains on it"
    parser.add_argument("--config-file", default="", help=help_config)
    parser.add_argument("--output", type=Path, default=Path("output/check"), help="folder for the picture")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        cfg = load_config(arguments.config_file, [])
        register_folders(cfg)
        findings = check_dataset(arguments.name, workers=arguments.workers)
    except (KeyError, OSError, ValueError) as error:
        logger.error("TROUBLE: %s", error.args[0] if isinstance(error, KeyError) else error)
        return 1
    logger.info("%s", format_findings(findings))
    picture = arguments.output / f"{arguments.name}.png"
    figure = draw_findings(findings, MetadataCatalog.get(arguments.name).stuff_colors, arguments.name)
    with complete_file(picture) as part:
        figure.savefig(part, format="png", dpi=100)
    logger.info("Picture: %s", picture)
    for note in findings.notes():
        logger.info("Note: %s", note)
    troubles = config_troubles(cfg, arguments.name) + findings.troubles()
    for trouble in troubles:
        logger.error("TROUBLE: %s", trouble)
    logger.info("%s", f"{len(troubles)} troubles" if troubles else "No trouble found.")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
