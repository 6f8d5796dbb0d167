"""Registers semantic segmentation datasets in Detectron2's catalogs; the disk is not read until a dataset is used."""

import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..classes import ClassList

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
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
    **metadata,
) -> None:
    """Registers a dataset.

    Args:
        name: as in DATASETS.TRAIN.
        load: makes the dataset dicts (`file_name`, `sem_seg_file_name`, `image_id`); called when the dataset is used.
        ignore_label, label_map: see `LabelReader`.
        metadata: further entries of the dataset's metadata.
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
    prefix: str, splits: Iterable[str], load: Callable[[str], list[dict]], classes: ClassList, **options
) -> None:
    """Registers `<prefix>_<split>`, loaded by `load(split)`, for every split; for options see `register_sem_seg`."""
    for split in splits:
        register_sem_seg(f"{prefix}_{split}", functools.partial(load, split), classes, **options)


def pair_folders(
    image_dir: Path, label_dir: Path, *, image_suffix: str | None = None, label_suffix: str = ".png"
) -> list[dict]:
    """Dataset dicts of every image in a folder and its subfolders, sorted, with the label maps of the same names.

    Args:
        image_suffix: ending of image file names, removed to get the common name; None: any usual image extension.
        label_suffix: ending of label map file names, in place of the image's.

    Raises:
        FileNotFoundError: a folder is missing, or an image has no label map.
        ValueError: there is no image in the folder, or two images have the same name without their endings.
    """
    images: dict[str, str] = {}
    for file in sorted(_files_below(image_dir)):
        suffix = image_suffix or os.path.splitext(file)[1]
        if not (file.endswith(suffix) if image_suffix else suffix.lower() in IMAGE_SUFFIXES):
            continue
        name = file[: -len(suffix)]
        if name in images:
            raise ValueError(
                f"{image_dir}: {images[name]} and {file} have the same name. Remove one of them, or set image_suffix "
                "to the ending that only images have."
            )
        images[name] = file
    if not images:
        expected = f"*{image_suffix}" if image_suffix else ", ".join(f"*{suffix}" for suffix in IMAGE_SUFFIXES)
        raise ValueError(f"{image_dir}: there are no images in this folder (expected {expected}).")
    labels = {name: name + label_suffix for name in images}
    records = _pair(image_dir, images, label_dir, labels)
    known = {*labels.values(), *(images.values() if image_dir == label_dir else ())}
    unused = [file for file in _files_below(label_dir) if file.endswith(label_suffix) and file not in known]
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
        ValueError: the file is empty.
    """
    if not list_file.is_file():
        raise FileNotFoundError(f"{list_file}: this list of images does not exist. {_SEE_README}")
    names = [line.split()[0] for line in list_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{list_file}: this list of images is empty.")
    return names


def _pair(image_dir: Path, images: dict[str, str], label_dir: Path, labels: dict[str, str]) -> list[dict]:
    """Dataset dicts of images and label maps, {name: relative path}, after a check that all of them exist."""
    for what, folder, files in (("image", image_dir, images), ("label map", label_dir, labels)):
        present = set(_files_below(folder))  # one listing: much faster on network disks than a test for each file
        missing = [file for file in files.values() if file not in present]
        if missing:
            raise FileNotFoundError(
                f"{folder / missing[0]}: this {what} does not exist, and it is the first of {len(missing)} "
                f"missing ones (of {len(files)}). {_SEE_README}"
            )
    return [
        {
            "file_name": str(image_dir / images[name]),
            "sem_seg_file_name": str(label_dir / labels[name]),
            "image_id": name,
        }
        for name in images
    ]


def _files_below(folder: Path) -> list[str]:
    """Relative paths, with "/", of the files in a folder and its subfolders, hidden ones left out."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: this folder does not exist. {_SEE_README}")
    found = []
    for parent, _, files in os.walk(folder, followlinks=True):
        prefix = Path(parent).relative_to(folder).as_posix() + "/"
        found += [prefix.removeprefix("./") + file for file in files if not file.startswith(".")]
    return found
