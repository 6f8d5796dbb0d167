"""Finds image files."""

import glob
import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from .datasets.catalog import IMAGE_SUFFIXES


def find_images(inputs: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Expands files, folders (with all subfolders) and glob patterns.

    Returns:
        Of each image, once and in the order given, {path: its path below the input that it was found with}: below the
        folder, the folder of the file, or the part of the pattern before its first wildcard. And of each input without
        an image, {input: reason}.
    """
    images: dict[str, str] = {}
    failures = {}
    for item in inputs:
        # An existing file whose name looks like a glob pattern, such as "a[1].png", is taken as the file.
        matches = [item] if os.path.exists(item) else sorted(glob.glob(item, recursive=True))
        found = [path for match in matches for path in _images_at(Path(match))]
        if not found:
            failures[item] = "no image in this folder" if os.path.isdir(item) else "no such file, folder or match"
        for path in found:
            images.setdefault(path, os.path.relpath(path, _root(item)))
    return images, failures


def _root(item: str) -> str | Path:
    """The folder below which an input names its images."""
    if os.path.exists(item):
        return item if os.path.isdir(item) else os.path.dirname(item) or "."
    return Path(*takewhile(lambda part: glob.escape(part) == part, Path(item).parts))


def _images_at(path: Path) -> list[str]:
    if not path.is_dir():
        return [str(path)]
    return [str(child) for child in sorted(path.rglob("*")) if child.suffix.lower() in IMAGE_SUFFIXES]
