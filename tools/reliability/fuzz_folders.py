"""Folders of photos and label maps with something wrong in them, as recipes of fuzz_inputs.py describe."""

import os
from pathlib import Path

import numpy as np
from fuzz_inputs import Recipe
from PIL import Image

SIDE = 16
# Defects of a photo, and layouts, that have to be told; the others are harmless.
TROUBLES = {"no label", "other size", "colours", "value", "broken image", "broken label", "empty label"}
TROUBLES |= {"dangling link", "two suffixes"}
UNUSABLE = {"no names", "no labels", "empty", "file", "link to itself", "swapped"}


def write_folder(recipe: Recipe, folder: Path) -> dict[str, str]:
    """Writes the data; returns the arguments of `own_config` that name it."""
    data, layout = folder / "data", recipe["layout"]
    if layout == "file":
        data.write_text("no folder")
        return {"data": str(data)}
    if layout == "link to itself":
        data.symlink_to(data)
        return {"data": str(data)}
    data.mkdir()
    (data / "names.txt").write_text("\n".join(f"class {index}" for index in range(recipe["classes"])))
    for part in ("train", "val") if layout == "split" else ("",):
        images = data if layout == "together" else data / part / "images"
        labels = data if layout == "together" else data / part / "labels"
        for new in (images, labels):
            new.mkdir(parents=True, exist_ok=True)
        for index, defect in enumerate(() if layout == "empty" else recipe["photos"]):
            write_pair(images, labels, index, defect, recipe["classes"])
    if layout == "no names":
        (data / "names.txt").unlink()
    if layout == "no labels":
        for file in [*(data / "labels").iterdir()]:
            file.unlink()
        (data / "labels").rmdir()
    if layout == "swapped":
        (data / "images").rename(data / "photos")
        (data / "labels").rename(data / "images")
        (data / "photos").rename(data / "labels")
    for number in range({"loop": 1, "two loops": 2}.get(layout, 0)):
        (data / "images" / f"loop{number}").symlink_to(data / "images")
    if layout == "together":
        return {"images": str(data), "labels": str(data), "names": str(data / "names.txt")}
    return {"data": str(data)}


def write_pair(images: Path, labels: Path, index: int, defect: str, classes: int) -> None:
    """Writes photo number `index` and its label map, with the defect."""
    name = f"{index} 🌳\n'" if defect == "odd name" else f".{index}" if defect == "hidden" else str(index)
    photo, label = images / f"{name}.{'JPG' if defect == 'upper case' else 'jpg'}", labels / f"{name}.png"
    generator = np.random.default_rng(index)
    pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    values = np.resize(np.arange(classes, dtype=np.uint8), (SIDE, SIDE))
    if defect == "value":
        values[0, 0] = 100
    if defect == "other size":
        values = values[1:]
    if defect != "no image":
        Image.fromarray(pixels).save(photo)
    Image.fromarray(pixels if defect == "colours" else values).save(label)
    if defect in ("no label", "broken label", "empty label"):
        content = label.read_bytes()
        label.unlink()
        if defect != "no label":
            label.write_bytes(content[:40] if defect == "broken label" else b"")
    elif defect == "broken image":
        photo.write_bytes(photo.read_bytes()[:200])
    elif defect == "link":
        photo.rename(images / "elsewhere.bin")
        os.symlink("elsewhere.bin", photo)
    elif defect == "dangling link":
        photo.unlink()
        os.symlink("gone.jpg", photo)
    elif defect == "folder as image":
        (images / f"folder{index}.jpg").mkdir()
    elif defect == "two suffixes":
        Image.fromarray(pixels).save(images / f"{name}.webp")


def expected_trouble(recipe: Recipe) -> bool | None:
    """Whether something has to be told about a folder; None: both are right."""
    photos, layout = recipe["photos"], recipe["layout"]
    if TROUBLES.intersection(photos) or layout in UNUSABLE or not 0 <= recipe["val_share"] < 1:
        return True
    usable = [defect for defect in photos if defect not in ("no image", "hidden")]
    if layout == "together":
        return None  # depends on whether photos and label maps can be told apart
    return not usable or (len(usable) < 2 and recipe["val_share"] > 0 and layout != "split")
