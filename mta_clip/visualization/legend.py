"""Legends: which classes a label map shows, in which colour, and on what share of its pixels."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

INK = (33, 37, 41)
FAINT_INK = (120, 126, 133)
PAPER = (255, 255, 255)
MAX_COLUMNS = 3
MAX_NAME_CHARS = 34  # longer names end in an ellipsis


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend."""

    name: str
    color: tuple[int, int, int]  # RGB
    share: float  # of the labelled pixels, 0..1
    mark: str = ""  # a short word in a badge, such as "unseen"


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A scalable font that comes with matplotlib, `size` pixels high."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def legend_entries(
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    colors: NDArray[np.uint8],
    *,
    unseen: Collection[str] = (),
    other: str | None = None,
) -> list[LegendEntry]:
    """Entries of the classes that are present in a label map, largest first.

    Args:
        labels: (H, W); values outside [0, C) are not classes and do not count.
        colors: (C, 3) RGB, 0..255.
        unseen: names that get the mark "unseen"; if there are any, all others get "seen".
        other: name of pixels that no class fits; it gets no mark.
    """
    marks = {name: "unseen" if name in unseen else "seen" for name in class_names if unseen and name != other}
    labelled = labels[(labels >= 0) & (labels < len(class_names))]
    pixels = np.bincount(labelled.ravel(), minlength=len(class_names))
    return [
        LegendEntry(
            name=class_names[index],
            color=tuple(colors[index].tolist()),
            share=float(pixels[index] / labelled.size),
            mark=marks.get(class_names[index], ""),
        )
        for index in np.argsort(-pixels, kind="stable")
        if pixels[index]
    ]


def draw_legend(entries: Sequence[LegendEntry], *, height: int, font_size: int = 15) -> Image.Image:
    """Draws a legend in columns of about `height` pixels; they get higher if MAX_COLUMNS are not enough."""
    text_font, mark_font = font(font_size), font(round(font_size * 0.72))
    line = round(font_size * 1.75)
    rows = max(1, height // line, -(-len(entries) // MAX_COLUMNS))
    names = [_shorten(entry.name) for entry in entries]
    name_width = max((text_font.getlength(name) for name in names), default=0)
    share_width = text_font.getlength("100.0 %")
    mark_width = max((mark_font.getlength(entry.mark) + font_size for entry in entries if entry.mark), default=0)
    swatch, gap = font_size, round(font_size * 0.6)
    column = round(swatch + gap + name_width + gap + mark_width + share_width + 2.5 * gap)
    columns = -(-len(entries) // rows)
    legend = Image.new("RGB", (max(columns * column, 1), rows * line), PAPER)
    draw = ImageDraw.Draw(legend)
    for index, (entry, name) in enumerate(zip(entries, names, strict=True)):
        x, middle = index // rows * column, index % rows * line + line // 2
        box = (x, middle - swatch // 2, x + swatch, middle + swatch // 2)
        draw.rounded_rectangle(box, radius=swatch // 4, fill=entry.color)
        x += swatch + gap
        draw.text((x, middle), name, fill=INK, font=text_font, anchor="lm")
        x += round(name_width) + gap
        if entry.mark:
            _draw_mark(draw, entry.mark, x, middle, mark_font)
        x += round(mark_width + share_width)
        draw.text((x, middle), _percent(entry.share), fill=FAINT_INK, font=text_font, anchor="rm")
    return legend


def _draw_mark(draw: ImageDraw.ImageDraw, mark: str, x: int, middle: int, mark_font: ImageFont.FreeTypeFont) -> None:
    pad, half_height = mark_font.size // 2, mark_font.size * 0.8
    box = (x, middle - half_height, x + mark_font.getlength(mark) + 2 * pad, middle + half_height)
    outline, fill, ink = (INK, INK, PAPER) if mark == "unseen" else (FAINT_INK, PAPER, FAINT_INK)
    draw.rounded_rectangle(box, radius=pad, outline=outline, fill=fill)
    draw.text((x + pad, middle), mark, fill=ink, font=mark_font, anchor="lm")


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_NAME_CHARS else name[: MAX_NAME_CHARS - 1].rstrip() + "…"


def _percent(share: float) -> str:
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"
