"""Entering semantic segmentation datasets into Detectron2's catalogs, without touching the disk until they are used."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..classes import ClassList

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def data_root() -> Path:
    """The folder of all datasets: $DETECTRON2_DATASETS, or `datasets`. Read at every call, not at import."""
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
        load: makes the dataset dicts (`file_name`, `sem_seg_file_name`, `image_id`); called when the dataset is used.
        label_map: {stored label value: class index or ignore label}; values not in it mean themselves.
        metadata: further entries.
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


def pair_folders(
    image_dir: Path, label_dir: Path, *, image_suffix: str | None = None, label_suffix: str = ".png"
) -> list[dict]:
    """Pairs every image of a folder, subfolders included, with the label map of the same relative name.

    Args:
        image_suffix: end of the image file names, cut off to get the common name; None: any usual image extension.
        label_suffix: end of the label file names in place of the image's.

    Returns:
        Dataset dicts in the order of the names.

    Raises:
        FileNotFoundError: a folder is missing or an image has no label map.
        ValueError: there is no image in the folder, or two images have one name.
    """
    images = find_images(image_dir, image_suffix)
    if not Path(label_dir).is_dir():
        raise FileNotFoundError(f"{label_dir}: this folder of label maps does not exist.")
    return pair_names(image_dir, label_dir, images, label_suffix=label_suffix)


def find_images(image_dir: Path, image_suffix: str | None = None) -> dict[str, Path]:
    """The images below a folder, by their name relative to it without `image_suffix`, sorted."""
    image_dir = Path(image_dir)
    if not image_dir.is_dir():
        raise FileNotFoundError(
            f"{image_dir}: this folder of images does not exist. "
            "Set DETECTRON2_DATASETS to the folder that holds the datasets (see datasets/README.md)."
        )
    images: dict[str, Path] = {}
    for path in sorted(image_dir.rglob("*")):
        relative = path.relative_to(image_dir).as_posix()
        if image_suffix is not None:
            if not relative.endswith(image_suffix):
                continue
            key = relative[: -len(image_suffix)]
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            key = relative[: -len(path.suffix)]
        else:
            continue
        if key in images:
            raise ValueError(f"{image_dir}: {images[key].name} and {path.name} have the same name; remove one of them.")
        images[key] = path
    if not images:
        expected = f"*{image_suffix}" if image_suffix else ", ".join(f"*{s}" for s in IMAGE_SUFFIXES)
        raise ValueError(f"{image_dir}: there are no images in this folder (expected {expected}).")
    return images


def pair_names(
    image_dir: Path, label_dir: Path, images: Mapping[str, Path], *, label_suffix: str = ".png"
) -> list[dict]:
    """Dataset dicts of images by name and the label maps `label_dir/name + label_suffix`.

    Raises:
        FileNotFoundError: images without a label map; the message counts them and names the first.
    """
    # One listing instead of a file test per image: a hundred times faster on network disks.
    labels = {path.relative_to(label_dir).as_posix() for path in Path(label_dir).rglob(f"*{label_suffix}")}
    missing = [name for name in images if name + label_suffix not in labels]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(images)} images in {image_dir} have no label map in {label_dir}; the first is "
            f"{images[missing[0]].name}, expected {Path(label_dir) / (missing[0] + label_suffix)}."
        )
    return [
        {
            "file_name": str(path),
            "sem_seg_file_name": str(Path(label_dir) / (name + label_suffix)),
            "image_id": name,
        }
        for name, path in images.items()
    ]
