"""The files that a page offers of a result."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from ..api.result import Segmentation
from ..files import complete_file
from ..visualization import draw_overlay, save_label_map


def write_downloads(result: Segmentation, folder: Path) -> tuple[Path, Path, Path]:
    """Writes label map (PNG, pixel value = class index), overlay (PNG) and COCO JSON; returns their paths.

    Raises:
        OSError: a file cannot be written.
    """
    labels, coco = (folder / f"{stem_of(result)}_{end}" for end in ("labels.png", "coco.json"))
    save_label_map(result.labels, labels, result.colors)
    with complete_file(coco) as part:
        part.write_text(json.dumps(result.to_coco()), encoding="utf-8")
    return labels, write_overlay(result, folder), coco


def write_overlay(result: Segmentation, folder: Path, *, alpha: float = 0.55, hidden: Collection[int] = ()) -> Path:
    """Writes the overlay as PNG, without the colours of the `hidden` labels; returns its path.

    Raises:
        ValueError: `alpha` is not in 0..1.
        OSError: the file cannot be written.
    """
    labels = np.where(np.isin(result.labels, list(hidden)), -1, result.labels)
    path = folder / f"{stem_of(result)}_overlay.png"
    with complete_file(path) as part:
        Image.fromarray(draw_overlay(result.image, labels, result.colors, alpha=alpha)).save(part, format="PNG")
    return path


def stem_of(result: Segmentation) -> str:
    """What the names of the files start with: the name of the image, or "image"."""
    return Path(result.path or "image").stem
