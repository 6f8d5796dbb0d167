"""Datasets described by the config alone: a folder of images, a folder of label maps, a list of classes.

    DATASETS:
      FOLDERS:
        - name: garden_train            # what DATASETS.TRAIN and DATASETS.TEST call it
          image_dir: garden/images/train
          label_dir: garden/labels/train
          classes: garden/classes.txt   # one name per line (optionally a tab and R G B), or a YAML list of names
          ignore_label: 255             # optional
          image_suffix: _rgb.jpg        # optional: ending of image names; default: any usual image extension
          label_suffix: _mask.png       # optional: ending of label map names, in place of the image's; default: .png
          label_map: {0: 255, 7: 1}     # optional: {stored value: class index or ignore label}
          colors: [[0, 0, 255], ...]    # optional: RGB of each class, used in pictures
          files: garden/train.txt       # optional: names of the images to use, one per line, or a YAML list of them
      TRAIN: [garden_train]

Relative paths start at the working directory. Label maps are PNG files (8 or 16 bit, greyscale or palette) as large as
their image; pixel values are class indices. Images in a subfolder have their label maps in a subfolder of that name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..classes import ClassList, make_classes, read_classes
from ..label_maps import LabelReader
from .catalog import pair_folders, read_names, register_sem_seg

_REQUIRED = ("name", "image_dir", "label_dir", "classes")
_OPTIONAL = ("ignore_label", "image_suffix", "label_suffix", "label_map", "colors", "files")
_KINDS: dict[str, tuple[Any, str]] = dict.fromkeys((*_REQUIRED, *_OPTIONAL), (str, "a text")) | {
    "classes": ((str, list, tuple), "a file or a list of names"),
    "files": ((str, list, tuple), "a file or a list of names"),
    "colors": ((list, tuple), "a list of [red, green, blue]"),
    "label_map": (Mapping, "a mapping such as {0: 255}"),
    "ignore_label": (int, "an integer"),
}


def register_folders(cfg: CfgNode) -> None:
    """Registers every entry of DATASETS.FOLDERS; calling it again replaces the datasets of these names.

    The entries and the pairing of images and label maps are checked here, so that a mistake shows before training. The
    content of the files is checked as they are read, or all at once by `mta-clip check`.

    Raises:
        ValueError: an entry is malformed, its name is taken, or it contains no image.
        FileNotFoundError: a folder, the class list, the list of files, an image on it, or the label map of an image is
            missing.
    """
    seen: set[str] = set()
    for position, entry in enumerate(cfg.DATASETS.FOLDERS):
        where = f"DATASETS.FOLDERS[{position}]"
        _check_keys(entry, where)
        if entry["name"] in seen:
            raise ValueError(f"{where}: the name {entry['name']!r} is already used by an entry before it.")
        seen.add(entry["name"])
        _register_folder(entry, f"{where} ({entry['name']})")


def _check_keys(entry: Mapping, where: str) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: expected a mapping with the keys {list(_REQUIRED)}, got {entry!r}.")
    missing = [key for key in _REQUIRED if not entry.get(key)]
    unknown = [key for key in entry if key not in _KINDS]
    if missing or unknown:
        raise ValueError(
            f"{where}: missing keys {missing}, unknown keys {unknown}. Required are {list(_REQUIRED)}; "
            f"{list(_OPTIONAL)} are optional."
        )
    for key, value in entry.items():
        kinds, expected = _KINDS[key]
        items = value if isinstance(value, (list, tuple)) and key in ("classes", "files") else ()
        if value is not None and not (isinstance(value, kinds) and all(isinstance(item, str) for item in items)):
            raise ValueError(f"{where}: {key} is {value!r:.60}; expected {expected}.")


def _register_folder(entry: Mapping, where: str) -> None:
    entry = {key: value for key, value in entry.items() if value is not None}  # `key: null` is the default
    name = entry["name"]
    if name in DatasetCatalog.list():
        if not MetadataCatalog.get(name).get("from_config", False):
            raise ValueError(f"{where}: there is a dataset of this name already. Choose another name.")
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
    classes = _classes(entry, where)
    options = {"ignore_label": entry.get("ignore_label", 255), "label_map": dict(entry.get("label_map", {}))}
    try:
        LabelReader(num_classes=len(classes), **options)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    dicts = pair_folders(
        Path(entry["image_dir"]),
        Path(entry["label_dir"]),
        image_suffix=entry.get("image_suffix"),
        label_suffix=entry.get("label_suffix", ".png"),
        files=read_names(Path(files)) if isinstance(files := entry.get("files"), str) else files,
    )
    register_sem_seg(name, lambda: dicts, classes, **options, from_config=True)


def _classes(entry: Mapping, where: str) -> ClassList:
    classes, colors = entry["classes"], entry.get("colors")
    if not isinstance(classes, str):
        return make_classes(list(classes), colors, where=where)
    listed = read_classes(classes)
    return make_classes(listed.names, colors or listed.colors, where=f"{where}, {classes}")
