"""Registers semantic segmentation datasets in Detectron2's catalogs; the disk is not read until a dataset is used."""

import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..classes import ClassList

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SKIPPED_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".mp4", ".mov")
_SEE_README = "datasets/README.md shows where files belong; DETECTRON2_DATASETS names the folder of all datasets."


def data_root() -> Path:
    """The folder of all datasets: $DETECTRON2_DATASETS, or `datasets`. The variable is read at every call."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def register_sem_seg(
    name: str,
    load: Callable[[], list[dict]],
    classes: ClassList,
    *,
    ignore_label: int = 255,
    label_map: Mapping[int, int] | None = None,
    **metadata: Any,
) -> None:
    """Registers a dataset.

    Args:
        name: as in DATASETS.TRAIN.
        load: makes the dataset dicts (`file_name`, `sem_seg_file_name`, `image_id`); called when the dataset is used.
        ignore_label: see `LabelReader`.
        label_map: see `LabelReader`.
        **metadata: further entries of the dataset's metadata.
    """
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        stuff_classes=list(classes.names),
        stuff_colors=[list(color) for color in classes.colors],
        ignore_label=ignore_label,
        label_map=dict(label_map or {}),
        evaluator_type="sem_seg",
        **metadata,
    )


def register_splits(
    prefix: str, splits: Iterable[str], load: Callable[[str], list[dict]], classes: ClassList, **options: Any
) -> None:
    """Registers `<prefix>_<split>`, loaded by `load(split)`, for every split; for options see `register_sem_seg`."""
    for split in splits:
        register_sem_seg(f"{prefix}_{split}", functools.partial(load, split), classes, **options)


def list_images(folder: Path, suffix: str | None = None) -> list[str]:
    """Paths, relative to a folder, of the images in it and its subfolders, sorted.

    Args:
        suffix: ending of image file names; None: any usual image extension.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: there is no image in it.
    """
    endings = (suffix,) if suffix else IMAGE_SUFFIXES
    files = sorted(files_below(folder))
    warn_of_skipped(folder, files)
    found = [file for file in files if (file if suffix else file.lower()).endswith(endings)]
    if not found:
        expected = ", ".join(f"*{ending}" for ending in endings)
        raise ValueError(f"{folder}: there are no images in this folder (expected {expected}).")
    return found


def warn_of_skipped(folder: Path, files: Iterable[str]) -> None:
    """Logs which of the files in a folder are pictures or videos of a kind that is not read."""
    skipped = [file for file in files if file.lower().endswith(SKIPPED_SUFFIXES)]
    if skipped:
        shown = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        logger.warning("%s: %d files are skipped; convert them to JPEG or PNG: %s", folder, len(skipped), shown)


def pair_folders(
    image_dir: Path,
    label_dir: Path,
    *,
    image_suffix: str | None = None,
    label_suffix: str = ".png",
    files: Sequence[str] | None = None,
) -> list[dict]:
    """Dataset dicts of every image in a folder and its subfolders, sorted, with the label maps of the same names.

    Args:
        image_suffix: ending of image file names, removed to get the common name; None: any usual image extension.
        label_suffix: ending of label map file names, in place of the image's.
        files: only these images, named as they are below `image_dir`, with or without their ending; None: all.

    Raises:
        FileNotFoundError: a folder is missing, an image has no label map, or there is no image for one of `files`.
        ValueError: there is no image in the folder, or two images have the same name without their endings.
    """
    images: dict[str, str] = {}
    for file in list_images(image_dir, image_suffix):
        name = file.removesuffix(image_suffix or os.path.splitext(file)[1])
        if name in images:
            raise ValueError(
                f"{image_dir}: {images[name]} and {file} have the same name. Remove one of them, or set image_suffix "
                "to the ending that only images have."
            )
        images[name] = file
    chosen = images
    if files is not None:
        name_of = {name: name for name in images} | {file: name for name, file in images.items()}
        chosen = {name_of.get(file, file): images.get(name_of.get(file, file), file) for file in files}
    records = _pair(image_dir, chosen, label_dir, {name: name + label_suffix for name in chosen})
    known = {name + label_suffix for name in images} | {*(images.values() if image_dir == label_dir else ())}
    unused = [file for file in files_below(label_dir) if file.endswith(label_suffix) and file not in known]
    if unused:
        logger.warning("%d label maps in %s have no image; the first is %s", len(unused), label_dir, min(unused))
    return records


def pair_listed(image_dir: Path, label_dir: Path, list_file: Path) -> list[dict]:
    """Dataset dicts of `<name>.jpg` and the label map `<name>.png` for every name in a list, in its order.

    Raises:
        FileNotFoundError, ValueError: see `read_names`; or a folder, an image or a label map is missing.
    """
    names = read_names(list_file)
    return _pair(image_dir, {name: f"{name}.jpg" for name in names}, label_dir, {name: f"{name}.png" for name in names})


def read_names(list_file: Path) -> list[str]:
    """The first word of every line of a text file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is empty, or a name leads out of a folder (an absolute path, or one with ..).
    """
    if not list_file.is_file():
        raise FileNotFoundError(f"{list_file}: this list of images does not exist. {_SEE_README}")
    names = [line.split()[0] for line in list_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{list_file}: this list of images is empty.")
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{list_file}: the name {name!r} leads out of the folder of its images.")
    return names


def _pair(image_dir: Path, images: dict[str, str], label_dir: Path, labels: dict[str, str]) -> list[dict]:
    """Dataset dicts of images and label maps, {name: relative path}, after a check that all of them exist."""
    for what, folder, files in (("image", image_dir, images), ("label map", label_dir, labels)):
        present = set(files_below(folder))  # one listing: much faster on network disks than a test for each file
        missing = [file for file in files.values() if file not in present]
        if missing:
            raise FileNotFoundError(_missing(what, folder, missing, len(files), sorted(present)))
    return [
        {
            "file_name": str(image_dir / images[name]),
            "sem_seg_file_name": str(label_dir / labels[name]),
            "image_id": name,
        }
        for name in images
    ]


def _missing(what: str, folder: Path, missing: list[str], wanted: int, present: list[str]) -> str:
    """Names all missing files; if nothing fits, the first is enough, beside what is there instead."""
    if len(missing) < wanted:
        return f"{folder}: {len(missing)} of {wanted} {what}s are missing in this folder: {', '.join(missing)}"
    instead = f"{len(present)} files, such as {present[0]}" if present else "no files"
    return (
        f"{folder / missing[0]}: this {what} does not exist, nor does any other of the {wanted}; the folder holds "
        f"{instead}. {_SEE_README}"
    )


def files_below(folder: Path) -> list[str]:
    """Relative paths, with "/", of the files in a folder and its subfolders, hidden ones left out.

    Links to folders are followed, except for those to a folder above them, which would never end.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: this folder does not exist. {_SEE_README}")
    found = []
    above = {str(folder): {os.path.realpath(folder)}}  # by folder: itself and all above it, without links
    for parent, folders, files in os.walk(folder, followlinks=True):
        seen = above.pop(parent)
        inside = {name: os.path.realpath(os.path.join(parent, name)) for name in folders}
        folders[:] = [name for name in folders if inside[name] not in seen]
        above |= {os.path.join(parent, name): seen | {inside[name]} for name in folders}
        prefix = Path(parent).relative_to(folder).as_posix() + "/"
        found += [prefix.removeprefix("./") + file for file in files if not file.startswith(".")]
    return found
