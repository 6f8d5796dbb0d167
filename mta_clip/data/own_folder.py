"""From a folder of photos and label maps to a config that trains on them.

    streets/
      names.txt                       one class name per line, in the order of the label values; see classes.py
      train/images/  train/labels/    photos, and label maps (PNG) of the same names; endings such as _mask are found
      val/images/    val/labels/      for evaluation

Or images/{train,val} and labels/{train,val}, or only images/ and labels/: then a share of the photos is held out for
evaluation. One folder may be both, as in a.jpg and a.png, or a.jpg and a_mask.png, if it is named as both.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from ..config import get_cfg
from .classes import read_classes
from .datasets.catalog import files_below, list_images
from .label_maps import read_stored_labels
from .model_classes import with_classes_of

_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}  # names of their folders
_LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # these keep the values of pixels
_LOOKED_AT = 20  # label maps whose values are named if there are no class names


def own_config(
    base: CfgNode,
    *,
    data: str | Path | None = None,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    names: str | Path | None = None,
    label_map: Mapping[int, int] | None = None,
    ignore_label: int = 255,
    val_share: float = 0.2,
    seed: int = 0,
) -> CfgNode:
    """The config that trains a model of `base` on a folder of photos; the content of the label maps is not checked.

    Args:
        base: how to train which model; what it says about datasets and classes (CLASS_KEYS) is replaced.
        data: folder as above; may be left out if `images`, `labels` and `names` are given.
        images: in place of `data`/images. If it is the same folder as `labels`, its PNG (BMP, TIFF) files are label
            maps, and all photos must have one other ending.
        labels: in place of `data`/labels.
        names: in place of `data`/names.txt.
        label_map: see `LabelReader`.
        ignore_label: see `LabelReader`.
        val_share: share of the photos, in [0, 1), that is held out where there is no val folder; 0: no evaluation.
        seed: chooses the photos that are held out. They are listed in the result, so that a run which is resumed from
            its own config keeps them; of other photos added later, the choice depends as little as possible.

    Returns:
        A copy of `base`, frozen if it is, with DATASETS.FOLDERS, TRAIN and TEST; without evaluation also without
        TEST.KEEP_BEST.

    Raises:
        FileNotFoundError: a folder, the list of names, or the label map of a photo is missing.
        ValueError: nothing says where the photos are, or `val_share` is out of range, or the list of names is
            malformed, or there are no photos, or nothing tells them from label maps in the same folder.
    """
    source = images if data is None else data
    if source is None or (data is None and None in (labels, names)):
        raise ValueError("Name the folder of the data, or all of its parts: images, labels and names.")
    if not 0 <= val_share < 1:
        raise ValueError(f"val_share is {val_share}; expected a share from 0 (no evaluation) to below 1, such as 0.2.")
    root = Path(source).absolute()
    splits = _splits(root, images, labels)
    classes = _class_list(Path(names).absolute() if names else root / "names.txt", splits["train"][1])
    entries = {split: _entry(f"own_{root.name}_{split}", *folders) for split, folders in splits.items()}
    if "val" not in entries and val_share:
        _hold_out(entries, share=val_share, seed=seed)
    for entry in entries.values():
        entry |= {"classes": str(classes), "ignore_label": ignore_label}
        if label_map:
            entry["label_map"] = dict(label_map)
    cfg = with_classes_of(base, get_cfg())
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.DATASETS.FOLDERS = list(entries.values())
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (entries["train"]["name"],), ()
    if "val" in entries:
        cfg.DATASETS.TEST = (entries["val"]["name"],)
    else:
        cfg.TEST.KEEP_BEST = ""  # nothing tells which is best
    if frozen:
        cfg.freeze()
    return cfg


def held_out_count(photos: int, share: float) -> int:
    """How many of two photos or more are held out for evaluation: `share` of them, at least one and never all."""
    return min(max(1, round(share * photos)), photos - 1)


def _splits(root: Path, images: str | Path | None, labels: str | Path | None) -> dict[str, tuple[Path, Path]]:
    """{"train" and perhaps "val": (folder of images, folder of label maps)}."""
    image_dir = Path(images).absolute() if images else root / "images"
    label_dir = Path(labels).absolute() if labels else root / "labels"
    layouts = [(lambda name: image_dir / name, lambda name: label_dir / name)]
    if not (images or labels):
        layouts.insert(0, (lambda name: root / name / "images", lambda name: root / name / "labels"))
    for images_of, labels_of in layouts:
        found = {
            split: (images_of(name), labels_of(name))
            for split, names in _SPLITS.items()
            for name in names
            if images_of(name).is_dir()
        }
        if "train" in found:
            return found
    if image_dir.is_dir():
        return {"train": (image_dir, label_dir)}
    held = f"holds {sorted(path.name for path in root.iterdir())[:10]}" if root.is_dir() else "does not exist"
    raise FileNotFoundError(
        f"{image_dir}: this folder does not exist. Photos belong in {root / 'train' / 'images'} or in "
        f"{root / 'images'}, but {root} {held}. Or name the folders of images and labels (--images, --labels)."
    )


def _class_list(path: Path, label_dir: Path) -> Path:
    """The path of the class names, checked; if it is missing, the error tells the values that need names."""
    if not path.is_file():
        files = [file for file in files_below(label_dir) if file.endswith(_LABEL_SUFFIXES)][:_LOOKED_AT]
        values = sorted({v for file in files for v in np.unique(read_stored_labels(label_dir / file)).tolist()})
        hint = f" The first {len(files)} label maps hold the values {values}." if values else ""
        raise FileNotFoundError(
            f"{path}: this list of class names does not exist. Write a text file with one name per line, the first for "
            f"label value 0.{hint}"
        )
    read_classes(path)
    return path


def _entry(name: str, image_dir: Path, label_dir: Path) -> dict[str, Any]:
    """An entry of DATASETS.FOLDERS, except for the classes; says which endings photos and label maps have."""
    in_one_folder = image_dir.resolve() == label_dir.resolve()
    entry = {"name": name, "image_dir": str(image_dir), "label_dir": str(image_dir if in_one_folder else label_dir)}
    if in_one_folder:
        entry["image_suffix"] = _photo_suffix(image_dir)
    names = [os.path.splitext(file)[0] for file in list_images(image_dir, entry.get("image_suffix"))]
    label_files = files_below(label_dir)
    endings = _endings(names, label_files)
    if not (endings or in_one_folder) and any(file.lower().endswith((".jpg", ".jpeg")) for file in label_files):
        raise ValueError(
            f"{label_dir}: the label maps are JPEG files, which do not keep the values of pixels. Save them as PNG."
        )
    suffix = max(endings, key=lambda ending: (endings[ending], -len(ending)), default=".png")
    return entry if suffix == ".png" else entry | {"label_suffix": suffix}


def _photo_suffix(folder: Path) -> str:
    """The ending of photos in a folder that holds their label maps, too."""
    suffixes = Counter(os.path.splitext(file)[1] for file in list_images(folder))
    photos = [suffix for suffix in suffixes if suffix.lower() not in _LABEL_SUFFIXES]
    if len(photos) == 1:
        return photos[0]
    found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))
    raise ValueError(
        f"{folder}: photos and label maps are in one folder ({found}). They can be told apart if all photos have one "
        "ending, such as .jpg, and label maps another, such as .png; else move label maps into a folder of their own."
    )


def _endings(names: Sequence[str], label_files: Sequence[str]) -> Counter[str]:
    """{what the name of a label map has after that of its image: number of images}, such as {"_mask.png": 60}."""
    known, endings = set(names), Counter[str]()
    for file in label_files:
        if file.lower().endswith(_LABEL_SUFFIXES):
            endings.update(file[end:] for end in range(1, len(file)) if file[:end] in known)
    return endings


def _hold_out(entries: dict[str, dict[str, Any]], *, share: float, seed: int) -> None:
    """Splits the only entry in two, with lists of files; order by hash, so that new photos hardly change the choice."""
    files = list_images(Path(entries["train"]["image_dir"]), entries["train"].get("image_suffix"))
    if len(files) < 2:
        raise ValueError(
            f"{entries['train']['image_dir']}: {len(files)} photo cannot be divided into training and evaluation. Add "
            "photos, or set the share of the evaluation (val_share) to 0."
        )
    count = held_out_count(len(files), share)
    shuffled = sorted(files, key=lambda file: hashlib.sha256(f"{seed}/{file}".encode()).digest())
    entries["val"] = entries["train"] | {"name": entries["train"]["name"].removesuffix("train") + "val"}
    entries["val"]["files"], entries["train"]["files"] = sorted(shuffled[:count]), sorted(shuffled[count:])
