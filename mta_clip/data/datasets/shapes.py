"""Shapes: a dataset that needs no download; this file draws it the first time it is used.

A scene has a ground of one or two textures with overlapping objects on it. The class of an object is a combination of
texture, colour and shape ("striped blue ring"). All three are visible, so a small model learns them in minutes, names
mean something, and combinations can be held out for zero-shot experiments. A line of one pixel around every object and
the patches of static noise in some scenes have the ignore label.

Colour is part of the class: train without hue jitter (INPUT.COLOR_AUG_SSD False).

The seed decides everything: scene `i` of a split is the same on every machine. `shapes_sem_seg_{train,val}` are written
to $DETECTRON2_DATASETS/shapes/{train,val}/{images,labels} as PNG files.
"""

import functools
import itertools
import json
import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..classes import builtin_classes
from .catalog import data_root, pair_folders, register_splits

logger = logging.getLogger(__name__)

CLASSES = builtin_classes("shapes")
IGNORE_LABEL = 255
COLORS = {"red": (215, 40, 35), "green": (40, 165, 60), "blue": (45, 80, 215), "yellow": (235, 205, 45)}
TEXTURES = ("", "striped", "dotted")  # "" = plain: the name has no word for it
SHAPES = ("disc", "ring", "square", "triangle")
_GROUNDS = {"grey gravel": (135, 135, 138), "brown bricks": (128, 92, 74)}
# A synonym for every word of the names, for experiments with an open vocabulary; no class name of the dataset has one.
SYNONYMS = {
    "red": "crimson",
    "green": "emerald",
    "blue": "azure",
    "yellow": "golden",
    "striped": "banded",
    "dotted": "spotted",
    "disc": "circle",
    "ring": "hoop",
    "square": "box",
    "triangle": "wedge",
    "grey": "ashen",
    "gravel": "pebbles",
    "brown": "tan",
    "bricks": "masonry",
}
_PAINT = (245, 245, 245)  # of stripes and dots


@dataclass(frozen=True)
class Recipe:
    """What a split is made from; stored beside it, so that a split made from another recipe is recognised."""

    count: int  # scenes
    seed: int
    height: int = 96  # pixels
    width: int = 128
    version: int = 1  # of the drawing code


RECIPES = {"train": Recipe(count=800, seed=0), "val": Recipe(count=100, seed=1)}


@dataclass(frozen=True)
class Scene:
    """One drawn image and its label map."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    labels: NDArray[np.uint8]  # (H, W), class indices or IGNORE_LABEL


def register() -> None:
    """Registers `shapes_sem_seg_{train,val}`."""
    register_splits("shapes_sem_seg", RECIPES, _load, CLASSES, ignore_label=IGNORE_LABEL)


def _load(split: str) -> list[dict]:
    folder = write_split(data_root() / "shapes", split, RECIPES[split])
    return pair_folders(folder / "images", folder / "labels")


def write_split(root: Path, split: str, recipe: Recipe) -> Path:
    """Draws a split into the folder `root/split` unless it exists, and returns that folder.

    It gets its name only when it is complete, so several processes may call this at the same time.

    Raises:
        ValueError: the folder was made from another recipe.
        OSError: the files cannot be written.
    """
    folder = Path(root) / split
    if not folder.exists():
        _draw_split(folder, recipe)
    found = folder / "recipe.json"
    if not found.is_file() or json.loads(found.read_text()) != asdict(recipe):
        raise ValueError(
            f"{folder} was not made from the recipe of this version ({asdict(recipe)}; see {found.name} in it). "
            "Remove the folder; the next use draws it again."
        )
    return folder


def _draw_split(folder: Path, recipe: Recipe) -> None:
    logger.info("Drawing %d scenes of the shapes dataset to %s", recipe.count, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        unfinished = Path(scratch) / folder.name
        (unfinished / "images").mkdir(parents=True)
        (unfinished / "labels").mkdir()
        for index in range(recipe.count):
            scene = render_scene(recipe, index)
            Image.fromarray(scene.image).save(unfinished / "images" / f"{index:05d}.png", compress_level=1)
            Image.fromarray(scene.labels).save(unfinished / "labels" / f"{index:05d}.png")
        (unfinished / "recipe.json").write_text(json.dumps(asdict(recipe)))
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was first, with the same content
                raise


def render_scene(recipe: Recipe, index: int) -> Scene:
    """Draws the scene of a number from 0 on; the same arguments give the same scene."""
    objects = [name for name in CLASSES.names if name not in _GROUNDS]
    rng = np.random.default_rng([recipe.seed, index])
    image, labels = _draw_ground(rng, recipe.height, recipe.width)
    for name in rng.choice(objects, size=rng.integers(4, 8), replace=False):
        radius = rng.uniform(12, 21)
        center = rng.uniform(0.5 * radius, (recipe.height - 0.5 * radius, recipe.width - 0.5 * radius))
        inside, pixels = _draw_object(rng, name, recipe.height, recipe.width, center, radius)
        labels[_grow(inside)] = IGNORE_LABEL
        labels[inside] = CLASSES.names.index(name)
        image[inside] = pixels[inside]
    if rng.random() < 0.25:
        _draw_static(rng, image, labels)
    image += rng.normal(0, 6, size=image.shape)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), labels)


def render_crop(name: str, *, seed: int, size: int = 64) -> tuple[Tensor, str]:
    """Draws one object on a random ground, or a ground alone: a sample for contrastive image-text training.

    Args:
        name: "[texture] colour shape" with words of TEXTURES, COLORS and SHAPES, whether or not the combination is a
            class of the dataset; or the name of a ground.
        seed: decides position, size, ground and noise.
        size: side of the crop in pixels.

    Returns:
        The image (3, size, size) uint8 RGB, and `name` as its caption.

    Raises:
        ValueError: the name has other words.
    """
    rng = np.random.default_rng([seed, size])
    if name in _GROUNDS:
        image = _ground_pixels(rng, name, size, size)
    else:
        image, _ = _draw_ground(rng, size, size)
        center = size / 2 + rng.uniform(-0.08, 0.08, size=2) * size
        inside, pixels = _draw_object(rng, name, size, size, center, rng.uniform(0.3, 0.42) * size)
        image[inside] = pixels[inside]
    image += rng.normal(0, 6, size=image.shape)
    return torch.from_numpy(np.clip(image, 0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous(), name


def all_names() -> list[str]:
    """Names of every object that can be drawn, class of the dataset or not, and of the grounds."""
    objects = [" ".join(filter(None, words)) for words in itertools.product(TEXTURES, COLORS, SHAPES)]
    return objects + list(_GROUNDS)


def synonym_of(name: str) -> str:
    """A name with the same meaning and no word in common, such as "banded azure hoop" for "striped blue ring".

    Raises:
        KeyError: a word has no synonym in SYNONYMS.
    """
    return " ".join(SYNONYMS[word] for word in name.split())


def parse_name(name: str) -> tuple[str, str, str]:
    """Texture ("" = plain), colour and shape of the name of an object.

    Raises:
        ValueError: the name has other words.
    """
    words = name.split()
    texture, color, shape = ["", *words] if len(words) == 2 else words if len(words) == 3 else ("?", "?", "?")
    if texture not in TEXTURES or color not in COLORS or shape not in SHAPES:
        raise ValueError(
            f"{name!r} cannot be drawn. Expected '[{'|'.join(filter(None, TEXTURES))}] "
            f"{'|'.join(COLORS)} {'|'.join(SHAPES)}' or one of {list(_GROUNDS)}."
        )
    return texture, color, shape


@functools.cache
def _grid(height: int, width: int) -> tuple[NDArray, NDArray]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y.flags.writeable = x.flags.writeable = False
    return y, x


def _draw_object(
    rng: Generator, name: str, height: int, width: int, center: NDArray, radius: float
) -> tuple[NDArray, NDArray]:
    """Draws an object with random rotation and shade.

    Args:
        center: y, x in pixels; the object may extend beyond the border.
        radius: pixels from the center to the farthest point, up to a third more for squares and triangles.

    Returns:
        Where the object is, (H, W) bool, and its colours, (H, W, 3).
    """
    texture, color, shape = parse_name(name)
    y, x = _grid(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    u = (x - center[1]) * np.cos(angle) + (y - center[0]) * np.sin(angle)
    v = (y - center[0]) * np.cos(angle) - (x - center[1]) * np.sin(angle)
    inside = _inside(shape, u, v, radius)
    base = np.array(COLORS[color]) + rng.uniform(-15, 15, size=3)
    pixels = np.broadcast_to(base, (height, width, 3)).copy()
    period = rng.uniform(6, 8)
    if texture == "striped":
        pixels[(u + rng.uniform(0, period)) % period < 0.4 * period] = _PAINT
    elif texture == "dotted":
        dots = (u % period - period / 2) ** 2 + (v % period - period / 2) ** 2 < (0.34 * period) ** 2
        pixels[dots] = _PAINT
    shade = 1 + 0.15 * np.clip(v / radius, -1, 1)  # light from one side
    return inside, pixels * shade[..., None]


def _inside(shape: str, u: NDArray, v: NDArray, radius: float) -> NDArray:
    """Which points of the rotated coordinates (u, v) a shape around their origin covers. Areas are about equal."""
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) < 0.88 * radius
    if shape == "triangle":  # equilateral; its three sides are `0.66 * radius` from the center
        sides = [u * np.cos(a) + v * np.sin(a) for a in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
        return np.max(sides, axis=0) < 0.66 * radius
    distance = np.hypot(u, v)
    return (distance < radius) & (distance > 0.5 * radius) if shape == "ring" else distance < radius


def _draw_ground(rng: Generator, height: int, width: int) -> tuple[NDArray, NDArray]:
    """One ground texture, or two that meet at a slanted line. (H, W, 3) float colours, (H, W) uint8 labels."""
    first, second = rng.permutation(list(_GROUNDS))
    image = _ground_pixels(rng, first, height, width)
    labels = np.full((height, width), CLASSES.names.index(first), np.uint8)
    if rng.random() < 0.7:
        y, x = _grid(height, width)
        angle = rng.uniform(0, 2 * np.pi)
        offset = rng.uniform(-0.25, 0.25) * height
        beyond = (x - width / 2) * np.cos(angle) + (y - height / 2) * np.sin(angle) > offset
        image[beyond] = _ground_pixels(rng, second, height, width)[beyond]
        labels[beyond] = CLASSES.names.index(second)
    return image, labels


def _ground_pixels(rng: Generator, name: str, height: int, width: int) -> NDArray:
    """(H, W, 3) float: speckles of two pixels (gravel), or courses of bricks in mortar."""
    base = np.array(_GROUNDS[name]) + rng.uniform(-12, 12)
    if name == "grey gravel":
        speckles = rng.normal(0, 28, size=(height // 2 + 1, width // 2 + 1))
        speckles = speckles.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
        return base + speckles[..., None]
    y, x = _grid(height, width)
    y, x = y + rng.integers(0, 16), x + rng.integers(0, 16)
    mortar = (y % 8 < 1.5) | ((x + 8 * (y // 8 % 2)) % 16 < 1.5)
    return np.where(mortar[..., None], base + 55, base)


def _draw_static(rng: Generator, image: NDArray, labels: NDArray) -> None:
    """Covers a rectangle with black and white noise, which belongs to no class."""
    height, width = labels.shape
    top, left = rng.integers(0, height - 16), rng.integers(0, width - 16)
    patch = np.s_[top : top + rng.integers(10, 24), left : left + rng.integers(10, 24)]
    image[patch] = rng.choice([20, 235], size=labels[patch].shape)[..., None]
    labels[patch] = IGNORE_LABEL


def _grow(inside: NDArray) -> NDArray:
    """The region and the pixels that share a side with it."""
    padded = np.pad(inside, 1)
    return padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
