"""Class lists: names and colours of a dataset's classes, kept as text files rather than code.

A class list has one class per line, in the order of the label values: the name and, optionally after a tab, its colour
as `R G B` (0..255). A class with several names has them all, with ";" between: "sofa; couch; lounge". Blank lines and
lines that start with `#` are skipped. The lists that come with mta_clip are in `mta_clip/data/class_names/`; the
comments at their top say where names, order and colours come from.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..visualization.palette import distinct_colors

Color = tuple[int, int, int]

_HERE = Path(__file__).parent
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufeff]")  # and the byte order mark
_COLOR_AFTER_SPACE = re.compile(r" \d{1,3} +\d{1,3} +\d{1,3}\s*$")


@dataclass(frozen=True)
class ClassList:
    """Names (as the text encoder reads them) and RGB colours of the classes, in the order of the label values."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]

    def __len__(self) -> int:
        return len(self.names)

    def with_background(self, *names: str) -> "ClassList":
        """The same classes with another one, drawn in black, before them as class 0; `names`: default "background"."""
        return ClassList(("; ".join(names or ("background",)), *self.names), ((0, 0, 0), *self.colors))


def short_name(name: str) -> str:
    """The first of the names of a class, for tables and pictures."""
    return name.partition(";")[0].strip()


def builtin_classes(dataset: str) -> ClassList:
    """The class list that comes with mta_clip for a dataset, e.g. "ade20k".

    Raises:
        FileNotFoundError: there is none.
    """
    return read_classes(_HERE / "class_names" / f"{dataset}.txt")


def read_classes(path: str | Path) -> ClassList:
    """Reads a class list; classes without a colour get one from `distinct_colors`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the list is empty or not in UTF-8, a name is missing or occurs twice, or a colour is not three
            numbers in 0..255.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such class list. It is a text file with one class name per line.")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors write a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the class list is not in UTF-8 ({error}). Save it in this encoding.") from error
    names, colors = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, tab, color = line.partition("\t")
        if not tab and _COLOR_AFTER_SPACE.search(name):
            raise ValueError(f"{path}, line {number}: {name.strip()!r} ends in a colour; put a tab before it.")
        names.append(name.strip())
        colors.append(_parse_color(color, where=f"{path}, line {number}"))
    return make_classes(names, colors, where=str(path))


def make_classes(names: Sequence[str], colors: Sequence[Color | None] | None = None, *, where: str) -> ClassList:
    """Checks names and colours (RGB 0..255), and takes missing colours from `distinct_colors`.

    Raises:
        ValueError: no names, an empty or repeated name or one with control characters, or not as many colours as
            names; it calls the list `where`.
    """
    if not names:
        raise ValueError(f"{where}: the list of classes is empty.")
    first_of: dict[str, int] = {}
    for position, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{where}: class {position} has no name; expected a non-empty string, got {name!r}.")
        if _CONTROL.search(name):
            raise ValueError(
                f"{where}: the name of class {position}, {name!r:.80}, has control characters. Is the list in another "
                "encoding than UTF-8?"
            )
        if (first := first_of.setdefault(name, position)) != position:
            raise ValueError(
                f"{where}: the class name {name!r:.80} occurs twice (classes {first} and {position}). "
                "Names must differ, because masks are classified by them."
            )
    colors = [None] * len(names) if colors is None else list(colors)
    if len(colors) != len(names):
        raise ValueError(f"{where}: {len(names)} class names, but {len(colors)} colours.")
    for color in filter(None, colors):
        if not (isinstance(color, Sequence) and len(color) == 3 and all(c in range(256) for c in color)):
            raise ValueError(f"{where}: a colour is {color!r:.60}; expected red, green and blue in 0..255.")
    if not all(colors):
        others = iter(distinct_colors(colors.count(None), apart_from=list(filter(None, colors))).tolist())
        colors = [given or next(others) for given in colors]
    return ClassList(tuple(names), tuple((red, green, blue) for red, green, blue in filter(None, colors)))


def _parse_color(text: str, *, where: str) -> Color | None:
    if not text.strip():
        return None
    parts = text.split()
    if len(parts) != 3 or not all(part.isdecimal() and int(part) <= 255 for part in parts):
        raise ValueError(f"{where}: expected a colour as three numbers in 0..255, got {text.strip()!r}.")
    red, green, blue = map(int, parts)
    return red, green, blue
