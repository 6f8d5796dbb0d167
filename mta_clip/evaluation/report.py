"""Tables and files of an evaluation: log table, metrics.json, per_class.csv.

Shapes: C classes.
"""

import csv
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..data.classes import short_name
from ..files import complete_file
from .metrics import ClassMetrics

TABLE_BLOCKS = 3  # the table of classes has at most this number of blocks side by side


def format_table(
    summary: Mapping[str, float], metrics: ClassMetrics, class_names: Sequence[str], unseen: Collection[int] = ()
) -> str:
    """Summary line and per-class lines, in percent, as text; of several names of a class, the first.

    Args:
        summary: metrics over all classes, in percent.
        unseen: indices of the classes to mark with an asterisk.
    """
    headline = tabulate([list(summary.values())], headers=list(summary), tablefmt="simple", floatfmt=".2f")
    total = max(int(metrics.true_pixels.sum()), 1)
    rows = [
        (
            short_name(name) + (" *" if index in unseen else ""),
            _percent(metrics.iou[index]),
            _percent(metrics.accuracy[index]),
            f"{100 * metrics.true_pixels[index] / total:.2f}",
        )
        for index, name in enumerate(class_names)
    ]
    blocks = min(TABLE_BLOCKS, -(-len(rows) // 12))
    length = -(-len(rows) // blocks)
    table = tabulate(
        [[cell for row in rows[line::length] for cell in row] for line in range(length)],
        headers=["class", "IoU", "acc", "pixels"] * blocks,
        tablefmt="simple",
        colalign=("left", "right", "right", "right") * blocks,
        disable_numparse=True,
    )
    note = "\n* not seen in training" if len(unseen) else ""
    return f"{headline}\n\n{table}{note}"


def format_datasets(results: Mapping[str, Mapping[str, float]]) -> str:
    """One line per dataset and one for their means, in percent, as text; where all classes are seen, that is the mIoU.

    Args:
        results: for each dataset, metrics in percent as of `SemanticEvaluator`.
    """
    lines: list[tuple[Any, ...]] = []
    for name, metrics in results.items():
        miou = metrics["mIoU"]
        split = (metrics.get("mIoU_seen", miou), metrics.get("mIoU_unseen", math.nan), metrics.get("hIoU", math.nan))
        lines.append((name, sum(key.startswith("IoU-") for key in metrics), miou, *split))
    columns = [[x for x in column if not math.isnan(x)] for column in list(zip(*lines, strict=True))[2:]]
    means = [sum(column) / len(column) if column else math.nan for column in columns]
    rows = [
        (name, count, *(_percent(value / 100) for value in values))
        for name, count, *values in [*lines, ("mean", "", *means)]
    ]
    return tabulate(
        rows,
        headers=["dataset", "classes", "mIoU", "seen", "unseen", "harmonic"],
        tablefmt="simple",
        colalign=("left",) + ("right",) * 5,
        disable_numparse=True,
    )


def write_metrics(path: Path, results: Mapping[str, float]) -> None:
    """Writes metrics as one JSON object, NaN as null; OSError if the file cannot be written."""
    clean = {name: None if math.isnan(value) else value for name, value in results.items()}
    with complete_file(path) as part:
        part.write_text(json.dumps(clean, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_class_table(
    path: Path, metrics: ClassMetrics, class_names: Sequence[str], unseen: Collection[int] = ()
) -> None:
    """Writes one CSV line per class: percent with four decimals, NaN as an empty field.

    Args:
        unseen: indices of the classes whose column "split" says "unseen".

    Raises:
        OSError: the file cannot be written.
    """
    with complete_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        measures = ("IoU", "accuracy", "precision", "boundary_IoU", "true_pixels", "predicted_pixels")
        writer.writerow(("index", "class", "split", *measures))
        for index, name in enumerate(class_names):
            shares = (metrics.iou, metrics.accuracy, metrics.precision, metrics.boundary_iou)
            percents = ["" if math.isnan(share[index]) else f"{100 * share[index]:.4f}" for share in shares]
            pixels = int(metrics.true_pixels[index]), int(metrics.predicted_pixels[index])
            writer.writerow((index, name, "unseen" if index in unseen else "seen", *percents, *pixels))


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}"
