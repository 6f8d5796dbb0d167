"""Finds image files."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from .datasets.catalog import IMAGE_SUFFIXES


def find_images(inputs: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Expands files, folders (with all subfolders) and glob patterns.

    Returns:
        Paths of images, each once, in the order given; and for each input without an image, {input: reason}.
    """
    images: dict[str, None] = {}
    failures = {}
    for item in inputs:
        # An existing file whose name looks like a glob pattern, such as "a[1].png", is taken as the file.
        matches = [item] if os.path.exists(item) else sorted(glob.glob(item, recursive=True))
        found = [path for match in matches for path in _images_at(Path(match))]
        if not found:
            failures[item] = "no image in this folder" if os.path.isdir(item) else "no such file, folder or match"
        images.update(dict.fromkeys(found))
    return list(images), failures


def _images_at(path: Path) -> list[str]:
    if not path.is_dir():
        return [str(path)]
    return [str(child) for child in sorted(path.rglob("*")) if child.suffix.lower() in IMAGE_SUFFIXES]
