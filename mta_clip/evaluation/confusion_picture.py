"""Draws the confusion matrix, for a few classes or for hundreds.

Shapes: C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.classes import short_name
from ..files import complete_file

WRITTEN_OUT = 30  # up to this number of classes, cells show their numbers
NAMED = 200  # up to this number of classes, rows and columns have names; more are drawn on the same area
LISTED = 12  # number of confusions listed beside the matrix


def draw_confusion(path: Path, confusion: NDArray[np.int64], class_names: Sequence[str]) -> None:
    """Draws as PNG which classes the pixels of every class were predicted as, and lists the largest confusions.

    Args:
        confusion: (C, C) pixels; row = true class, column = predicted class.

    Raises:
        OSError: the file cannot be written.
    """
    count = len(class_names)
    cell = 0.5 if count <= WRITTEN_OUT else 0.16  # inches
    side = max(4.0, cell * min(count, NAMED))
    figure = Figure(figsize=(side + 6.5, side + 2.5), dpi=110, layout="constrained", facecolor="white")
    matrix_axes, list_axes = figure.subplots(1, 2, width_ratios=(side + 2.5, 4.0))
    with np.errstate(invalid="ignore"):
        percent = 100 * confusion / confusion.sum(1, keepdims=True)
    names = [short_name(name) for name in class_names]
    _draw_matrix(matrix_axes, percent, names)
    _list_confusions(list_axes, confusion, names)
    with complete_file(path) as part:
        figure.savefig(part, format="png")


def _draw_matrix(axes: Axes, percent: NDArray[np.float64], class_names: Sequence[str]) -> None:
    count = len(class_names)
    font_size = 9 if count <= WRITTEN_OUT else 6.5
    axes.set_facecolor("0.93")  # classes without pixels
    # A square root scale, so that a confusion of a few percent is already visible.
    axes.imshow(np.ma.masked_invalid(percent), cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    if count <= NAMED:
        axes.set_xticks(range(count), class_names, rotation=90, fontsize=font_size)
        axes.set_yticks(range(count), class_names, fontsize=font_size)
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.0 if count <= WRITTEN_OUT else 0.3)
        axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", color="0.35")
    axes.set_ylabel("true", color="0.35")
    axes.set_title("Share of each true class, percent", loc="left", color="0.35", fontsize=11)
    if count <= WRITTEN_OUT:
        for row, column in zip(*np.nonzero(np.nan_to_num(percent) >= 0.5), strict=True):
            value = percent[row, column]
            color = "white" if value > 40 else "0.2"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=color)


def _list_confusions(axes: Axes, confusion: NDArray[np.int64], class_names: Sequence[str]) -> None:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    rows, columns = np.unravel_index(order[wrong.flat[order] > 0], wrong.shape)
    axes.axis("off")
    axes.set_title("Largest confusions, share of all pixels", loc="left", color="0.35", fontsize=11)
    if not len(rows):
        axes.text(0, 0.98, "none", fontsize=10, va="top", transform=axes.transAxes)
    for line, (row, column) in enumerate(zip(rows, columns, strict=True)):
        # In points below the top, so that the line spacing is the same on a figure of any size.
        style: dict[str, Any] = {
            "xytext": (0, -14 - 17 * line),
            "xycoords": "axes fraction",
            "textcoords": "offset points",
        }
        share = f"{100 * confusion[row, column] / confusion.sum():.2f} %"
        axes.annotate(f"{class_names[row]} → {class_names[column]}", (0, 1), fontsize=9, **style)
        axes.annotate(share, (1, 1), fontsize=9, ha="right", color="0.4", **style)
