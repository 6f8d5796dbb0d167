#!/usr/bin/env python
"""Where two models disagree: at boundaries or inside regions, for better or for worse, with pictures of both.

    python tools/compare_models.py output/mask2former/model_final.pth output/mta_clip/model_final.pth \\
        --dataset camvid_sem_seg_val --output output/compare

Prints a table and writes to --output: images.csv with a line per image; better.png and worse.png, the windows in which
the second model corrects and spoils most pixels of the first (photo, ground truth, both models), one window an image.
"""

import mta_clip  # isort: skip  (before detectron2, which it makes importable)

import argparse
import csv
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from numpy.typing import NDArray
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from mta_clip.api.segmenter import Segmenter
from mta_clip.data import register_folders
from mta_clip.data.image_files import read_image
from mta_clip.data.label_maps import LabelReader
from mta_clip.evaluation.boundary import boundary_band
from mta_clip.visualization import Panel, class_colors, compose_panels, draw_overlay

WINDOW = 0.3  # side of a window in a picture, as a share of the shorter image side
SHOWN = 260  # pixels, side of a window as drawn
IGNORED = -1


@dataclass(frozen=True, eq=False)
class Comparison:
    """An image with its true labels and those of two models; all label maps (H, W), ignored pixels are -1."""

    path: str
    image: NDArray[np.uint8]  # (H, W, 3) RGB
    truth: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]

    @property
    def gain(self) -> NDArray[np.int64]:
        """(H, W): 1 where only the second model is right, -1 where only the first is, else 0; 0 where ignored."""
        valid = self.truth != IGNORED
        return np.where(valid, (self.second == self.truth) * 1 - (self.first == self.truth) * 1, 0)

    def band(self, dilation: float) -> NDArray[np.bool_]:
        """(H, W): pixels near a border between two true labels, at most `dilation` image diagonals away."""
        valid = self.truth != IGNORED
        return boundary_band(self.truth, valid, max(1, round(dilation * np.hypot(*self.truth.shape)))) & valid

    def best_window(self, sign: int) -> tuple[float, slice, slice]:
        """The square with the largest sum of `sign * gain`, and that sum as a share of its pixels."""
        height, width = self.truth.shape
        side = max(1, round(WINDOW * min(height, width)))
        sums = cv2.integral(sign * self.gain.astype(np.float64))
        sums = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
        top, left = np.unravel_index(sums.argmax(), sums.shape)
        return sums.max() / side**2, slice(top, top + side), slice(left, left + side)


def compare(models: Sequence[Segmenter], dataset: str) -> Iterator[Comparison]:
    """Both models on every image of a registered dataset.

    Raises:
        KeyError: no such dataset.
        ValueError: a model has other classes than the dataset.
    """
    records, metadata = DatasetCatalog.get(dataset), MetadataCatalog.get(dataset)
    for model in models:
        if list(model.class_names) != list(metadata.stuff_classes):
            raise ValueError(f"{dataset} has the classes {metadata.stuff_classes}, a model {list(model.class_names)}")
    reader = LabelReader.from_metadata(metadata)
    for record in tqdm(records, "comparing", unit="image", disable=None):
        truth = reader.read(record["sem_seg_file_name"]).astype(np.int64)
        truth[truth == reader.ignore_label] = IGNORED
        image = read_image(record["file_name"])
        first, second = (model(image, scores=False).labels for model in models)
        yield Comparison(record["file_name"], image, truth, first, second)


@dataclass
class Totals:
    """Pixels of a part of all images."""

    pixels: int = 0
    first_right: int = 0
    second_right: int = 0
    corrected: int = 0  # by the second model
    spoiled: int = 0

    def add(self, comparison: Comparison, where: NDArray[np.bool_]) -> None:
        """Counts the pixels of an image for which `where` (H, W) is True."""
        gain, truth = comparison.gain[where], comparison.truth[where]
        self.pixels += truth.size
        self.first_right += int((comparison.first[where] == truth).sum())
        self.second_right += int((comparison.second[where] == truth).sum())
        self.corrected += int((gain > 0).sum())
        self.spoiled += int((gain < 0).sum())

    def row(self) -> list[str]:
        """Shares of the pixels, in percent."""
        counts = (self.first_right, self.second_right, self.corrected, self.spoiled)
        return [f"{100 * count / max(1, self.pixels):.2f}" for count in counts]


def cut(comparison: Comparison, rows: slice, columns: slice) -> Comparison:
    """The part of an image in a window."""
    parts = {"image", "truth", "first", "second"}
    return dataclasses.replace(comparison, **{name: getattr(comparison, name)[rows, columns] for name in parts})


def draw(windows: Sequence[Comparison], colors: NDArray[np.uint8], names: Sequence[str]) -> Image.Image:
    """A row per window: photo, ground truth, first and second model."""
    sheets = []
    for window in windows:
        image = cv2.resize(window.image, (SHOWN, SHOWN), interpolation=cv2.INTER_CUBIC)
        panels = [Panel("Photo", image)]
        for title, labels in zip(("Ground truth", *names), (window.truth, window.first, window.second), strict=True):
            labels = cv2.resize(labels.astype(np.float64), (SHOWN, SHOWN), interpolation=cv2.INTER_NEAREST)
            panels.append(Panel(title, draw_overlay(image, labels.astype(int), colors)))
        sheets.append(compose_panels(panels))
    picture = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)))
    for number, sheet in enumerate(sheets):
        picture.paste(sheet, (0, number * sheet.height))
    return picture


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs=2, help="checkpoints or folders of saved models; gains are the second's")
    parser.add_argument("--names", nargs=2, default=("First model", "Second model"), help="for the pictures")
    parser.add_argument("--dataset", required=True, help="registered dataset")
    parser.add_argument("--output", required=True, type=Path, help="folder for the table and the pictures")
    parser.add_argument("--windows", type=int, default=4, help="windows in a picture")
    parser.add_argument("--dilation", type=float, default=0.02, help="width of a boundary, in image diagonals")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit status: 0, or 1 after an error, which is reported without a traceback.
    """
    args = parse_arguments(arguments)
    totals = {"at boundaries": Totals(), "inside regions": Totals()}
    best: dict[int, list[tuple[float, Comparison]]] = {1: [], -1: []}
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        models = [mta_clip.load(weights) for weights in args.weights]
        register_folders(models[0].config)
        with (args.output / "images.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "corrected pixels", "spoiled pixels"])
            for comparison in compare(models, args.dataset):
                band, gain = comparison.band(args.dilation), comparison.gain
                table.writerow([comparison.path, (gain > 0).sum(), (gain < 0).sum()])
                totals["at boundaries"].add(comparison, band)
                totals["inside regions"].add(comparison, ~band & (comparison.truth != IGNORED))
                for sign, found in best.items():
                    share, *window = comparison.best_window(sign)
                    found.append((share, cut(comparison, *window)))
                    found.sort(key=lambda pair: -pair[0])
                    del found[args.windows :]
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 1
    rows = [(name, part.pixels, *part.row()) for name, part in totals.items()]
    headers = ["", "pixels", f"{args.names[0]} right %", f"{args.names[1]} right %", "corrected %", "spoiled %"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))
    colors = class_colors(len(models[0].class_names), MetadataCatalog.get(args.dataset).get("stuff_colors"))
    for sign, name in ((1, "better.png"), (-1, "worse.png")):
        draw([window for _, window in best[sign]], colors, args.names).save(args.output / name)
    print(f"tables and pictures are in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
