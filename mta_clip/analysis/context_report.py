"""Reports of a ContextUsage: table, CSV, bar chart and sheets of examples.

Shapes: C classes, Z contexts.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tabulate import tabulate

from ..files import complete_file
from ..visualization import distinct_colors
from ..visualization.legend import FAINT_INK, INK, PAPER, font
from .contexts import THUMBNAIL, ContextUsage

GAP = 10
FONT_SIZE = 15


def format_usage(usage: ContextUsage, class_names: Sequence[str], cosines: Sequence[float]) -> str:
    """A table of each class that has masks, and of all: masks, share of each context in percent, entropy and cosine.

    Args:
        cosines: mean cosine between the contexts' texts of each of the C classes; of all, their mean is shown.
    """
    counts = np.vstack([usage.masks, usage.masks.sum(0)])
    names, cosines = [*class_names, "all classes"], [*cosines, float(np.mean(cosines))]
    rows = [
        [name, int(own.sum()), *_percents(own), "-" if np.isnan(entropy) else f"{entropy:.2f}", f"{cosine:.3f}"]
        for name, own, entropy, cosine in zip(names, counts, usage.entropy(), cosines, strict=True)
        if own.sum() or name == "all classes"
    ]
    return tabulate(
        rows,
        headers=["class", "masks", *(f"context {z}" for z in range(counts.shape[1])), "entropy", "cosine"],
        tablefmt="simple",
        colalign=("left", *["right"] * (3 + counts.shape[1])),
        disable_numparse=True,
    )


def write_usage(path: Path, usage: ContextUsage, class_names: Sequence[str]) -> None:
    """Writes the counts as CSV, one line per class and context."""
    with complete_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("class", "context", "masks", "pixels"))
        for (label, context), masks in np.ndenumerate(usage.masks):
            writer.writerow((class_names[label], context, int(masks), int(usage.pixels[label, context])))


def draw_usage(path: Path, usage: ContextUsage, class_names: Sequence[str]) -> None:
    """Draws as PNG one bar per class that has masks, divided into the shares of the contexts."""
    present = np.flatnonzero(usage.masks.sum(1))
    shares = 100 * usage.masks[present] / usage.masks[present].sum(1, keepdims=True).clip(min=1)
    figure = Figure(figsize=(9, 1.8 + 0.28 * max(len(present), 1)), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots()
    left = np.zeros(len(present))
    for context, color in enumerate(distinct_colors(usage.masks.shape[1]) / 255):
        axes.barh(range(len(present)), shares[:, context], left=left, color=color, label=f"context {context}")
        left += shares[:, context]
    names = [f"{class_names[label]}  ({usage.masks[label].sum()})" for label in present.tolist()]
    axes.set_yticks(range(len(present)), names, fontsize=9)
    axes.set_ylim(len(present) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors="0.3")
    axes.set_xlabel("share of the class's masks, percent", color="0.35")
    axes.set_title("Context that masks resemble most (number of masks)", loc="left", fontsize=11, color="0.35")
    figure.legend(loc="outside lower center", ncols=min(usage.masks.shape[1], 6), frameon=False, fontsize=9)
    with complete_file(path) as part:
        figure.savefig(part, format="png")


def save_examples(folder: Path, usage: ContextUsage, class_names: Sequence[str]) -> None:
    """Saves one PNG sheet per class that has masks: one row per context, with its largest masks."""
    digits = len(str(len(class_names)))
    for label in np.flatnonzero(usage.masks.sum(1)).tolist():
        safe_name = re.sub(r"[^\w-]+", "_", class_names[label])
        with complete_file(folder / f"{label:0{digits}d}_{safe_name}.png") as part:
            _example_sheet(usage, label, class_names[label]).save(part, format="PNG")


def _example_sheet(usage: ContextUsage, label: int, name: str) -> Image.Image:
    num_contexts = usage.masks.shape[1]
    text_font, title_font = font(FONT_SIZE), font(FONT_SIZE + 3, bold=True)
    text_width = round(max(text_font.getlength(f"context {num_contexts}"), text_font.getlength("0000000 masks")))
    top = GAP * 2 + round(title_font.size)
    width = 2 * GAP + max(text_width + usage.max_examples * (THUMBNAIL + GAP), round(title_font.getlength(name)))
    sheet = Image.new("RGB", (width, top + num_contexts * (THUMBNAIL + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), name, fill=INK, font=title_font, anchor="lt")
    for context, percent in enumerate(_percents(usage.masks[label])):
        y = top + context * (THUMBNAIL + GAP)
        lines = f"context {context}\n{usage.masks[label, context]} masks\n{percent} %"
        draw.multiline_text((GAP, y + 4), lines, fill=FAINT_INK, font=text_font, spacing=6)
        for column, example in enumerate(usage.largest(label, context)):
            sheet.paste(Image.fromarray(example.crop), (2 * GAP + text_width + column * (THUMBNAIL + GAP), y))
    return sheet


def _percents(counts: NDArray[np.int64]) -> list[str]:
    return [f"{100 * count / max(counts.sum(), 1):.1f}" for count in counts]
