"""Makes the dark forms of the drawn figures: NAME.svg in docs/pictures, which is edited by hand -> NAME_dark.svg.

python tools/dark_pictures.py
"""

import re
from pathlib import Path

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
DARK = {  # colour on light pages -> on dark ones
    "#1f2933": "#e6edf3",  # text
    "#4f5a66": "#a9b4bf",  # small text
    "#75818d": "#8b98a5",  # lines
    "#d5efea": "#12413c",  # what is trained
    "#00897b": "#4db6ac",
    "#eaedf1": "#2b323b",  # what is frozen
    "#7f8b98": "#8b97a3",
    "#fdf1e1": "#3a2913",  # training
    "#c4791b": "#dba458",
    "#e7effc": "#182b48",  # inference
    "#3b73c8": "#77a9f7",
    "#a9d3f2": "#4b7ea8",  # sky, sun and hill of the images
    "#f6c344": "#e0b04a",
    "#7dab5c": "#5f8a43",
}


def darkened(svg: str) -> str:
    """The figure in the colours of dark pages.

    Raises:
        ValueError: a colour has no dark form.
    """
    if unknown := sorted({*re.findall(r"#[0-9a-f]{3,8}\b", svg)} - DARK.keys()):
        raise ValueError(f"{', '.join(unknown)}: no dark form in tools/dark_pictures.py; add one there")
    return re.sub(r"#[0-9a-f]{6}\b", lambda colour: DARK[colour[0]], svg)


def main() -> None:
    for path in PICTURES.glob("*.svg"):
        if not path.stem.endswith("_dark"):
            path.with_stem(f"{path.stem}_dark").write_text(darkened(path.read_text()))


if __name__ == "__main__":
    main()
