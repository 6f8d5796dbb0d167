"""Pictures side by side: input, prediction with legend, and further maps that a model returns.

Shapes: H, W image size, C classes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .heatmap import draw_heatmap
from .legend import FAINT_INK, PAPER, draw_legend, font, legend_entries
from .overlay import draw_overlay

MIN_SIDE = 420  # pixels; smaller pictures are enlarged, so that legend and contours stay in proportion
MAX_SIDE = 1280  # pixels; larger pictures are shrunk
MARGIN = 18
FONT_SIZE = 15


@dataclass(frozen=True)
class Panel:
    """A picture with a title."""

    title: str
    picture: NDArray[np.uint8]  # (H, W, 3) RGB


def display_size(height: int, width: int) -> tuple[int, int]:
    """Size at which a picture is shown: shorter side at least MIN_SIDE, unless the longer would exceed MAX_SIDE."""
    scale = max(1.0, MIN_SIDE / min(height, width))
    scale = min(scale, MAX_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def compose_panels(panels: Sequence[Panel], legend: Image.Image | None = None) -> Image.Image:
    """Puts panels side by side on white, with titles above them and the legend at the right.

    Raises:
        ValueError: there is no panel, or heights differ.
    """
    heights = {panel.picture.shape[0] for panel in panels}
    if len(heights) != 1:
        raise ValueError(f"panels side by side need one common height, got {sorted(heights)}")
    (height,) = heights
    title_height = round(FONT_SIZE * 1.8)
    widths = [panel.picture.shape[1] for panel in panels] + ([legend.width] if legend else [])
    tall = max(height, legend.height if legend else 0)
    sheet = Image.new("RGB", (sum(widths) + MARGIN * (len(widths) + 1), tall + title_height + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    x, y = MARGIN, MARGIN + title_height
    for panel in panels:
        draw.text((x, MARGIN), panel.title, fill=FAINT_INK, font=font(FONT_SIZE), anchor="lt")
        sheet.paste(Image.fromarray(panel.picture), (x, y))
        x += panel.picture.shape[1] + MARGIN
    if legend:
        sheet.paste(legend, (x, y))
    return sheet


def prediction_panel(
    image: NDArray[np.uint8],
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    colors: NDArray[np.uint8],
    *,
    alpha: float = 0.55,
    unseen: Collection[str] = (),
    other: str | None = None,
    heatmaps: Mapping[str, NDArray[np.floating]] | None = None,
) -> Image.Image:
    """Input, overlay, optional heat maps and legend of one image.

    Args:
        image: (H, W, 3) RGB, 0..255.
        labels: (H, W) class indices; values outside [0, C) stay uncoloured.
        colors: (C, 3) RGB, 0..255.
        alpha: see `draw_overlay`.
        unseen: see `legend_entries`.
        other: see `legend_entries`.
        heatmaps: further maps by title, (H, W) in [0, 1], such as TagCLIP's trusty map.

    Raises:
        ValueError: `alpha` or a value of a heat map is outside [0, 1].
    """
    height, width = display_size(*labels.shape)
    smooth = cv2.INTER_AREA if height < labels.shape[0] else cv2.INTER_CUBIC
    shown = cv2.resize(image, (width, height), interpolation=smooth)
    # OpenCV can resize float64, which holds every label exactly; nearest never mixes two labels.
    shown_labels = cv2.resize(labels.astype(np.float64), (width, height), interpolation=cv2.INTER_NEAREST).astype(int)
    panels = [Panel("Input", shown), Panel("Prediction", draw_overlay(shown, shown_labels, colors, alpha=alpha))]
    for title, values in (heatmaps or {}).items():
        resized = cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        panels.append(Panel(f"{title} (0 dark, 1 bright)", draw_heatmap(resized)))
    entries = legend_entries(labels, class_names, colors, unseen=unseen, other=other)
    return compose_panels(panels, draw_legend(entries, height=height, font_size=FONT_SIZE) if entries else None)
