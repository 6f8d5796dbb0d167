"""Tiny fake copies of the datasets' official downloads: real layouts, file names and label encodings, random content.

make_miniature("ade20k", root)       # what the download looks like under $DETECTRON2_DATASETS = root
prepare_miniature("ade20k", root)    # then what datasets/prepare_ade20k.py makes of it
REGISTERED["ade20k"]                 # names to train and test on, and the number of classes
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image
from scripts import load_script

from mta_clip.data.classes import builtin_classes
from mta_clip.data.datasets import shapes
from mta_clip.data.datasets.coco_stuff import CLASS_IDS
from mta_clip.files import complete_file

TRAIN, VAL = 3, 2  # images per split
# {miniature: [(dataset to train on, dataset to test on, number of classes), ...]}
REGISTERED: dict[str, list[tuple[str, str, int]]] = {
    "shapes": [("shapes_sem_seg_train", "shapes_sem_seg_val", 16)],
    "camvid": [("camvid_sem_seg_train", "camvid_sem_seg_val", 11)],
    "ade20k": [("ade20k_150_sem_seg_train", "ade20k_150_sem_seg_val", 150)],
    "ade20k_847": [("ade20k_847_sem_seg_train", "ade20k_847_sem_seg_val", 847)],
    "cityscapes": [("cityscapes_19_sem_seg_train", "cityscapes_19_sem_seg_val", 19)],
    "voc2012": [
        ("voc2012_20_sem_seg_trainaug", "voc2012_20_sem_seg_val", 20),
        ("voc2012_21_sem_seg_trainaug", "voc2012_21_sem_seg_val", 21),
        ("voc2012_20b_sem_seg_trainaug", "voc2012_20b_sem_seg_val", 21),
    ],
    "coco_stuff": [("coco_stuff_171_sem_seg_train", "coco_stuff_171_sem_seg_val", 171)],
    "pascal_context": [
        ("pascal_context_59_sem_seg_train", "pascal_context_59_sem_seg_val", 59),
        ("pascal_context_60_sem_seg_train", "pascal_context_60_sem_seg_val", 60),
        ("pascal_context_459_sem_seg_train", "pascal_context_459_sem_seg_val", 459),
    ],
}
# Ids of the 59 classes of PASCAL Context in its list of 459, in alphabetical order.
CONTEXT_IDS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159),
    *(
        162,
        187,
        189,
        207,
        220,
        232,
        258,
        259,
        260,
        284,
        295,
        296,
        308,
        324,
        326,
        347,
        349,
        354,
        355,
        360,
        366,
        368,
        397,
    ),
    *(415, 416, 420, 424, 427, 440, 445, 454, 458),
)
VOID_OUTLINE = 255


def make_miniature(name: str, root: Path) -> None:
    """Writes the miniature of a dataset below `root`."""
    _MAKERS[name](Path(root), np.random.default_rng(0))


def prepare_miniature(name: str, root: Path) -> None:
    """Runs the preparation script of a dataset, in this process; some datasets need none."""
    script = Path(__file__).parents[2] / "datasets" / f"prepare_{name}.py"
    if script.exists():
        load_script(script).prepare(Path(root), 0)


def _scenes(
    rng: np.random.Generator, count: int, values: NDArray, void: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """Images of rectangles, coloured by their label, and their label maps with stored values; 40..80 pixels a side."""
    colors = rng.integers(0, 256, size=(4000, 3))
    for _ in range(count):
        height, width = rng.integers(40, 81, size=2)
        labels = np.full((height, width), rng.choice(values), np.int32)
        for value in rng.choice(values, size=5):
            top, left = rng.integers(0, height - 12), rng.integers(0, width - 12)
            labels[top : top + rng.integers(8, 30), left : left + rng.integers(8, 30)] = value
        labels[-3:, : width // 2] = void
        image = colors[labels] + rng.integers(-20, 21, size=(height, width, 3))
        yield np.clip(image, 0, 255).astype(np.uint8), labels


def _save(path: Path, pixels: NDArray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels.astype(np.uint8))
    if palette:
        image = image.convert("P") if image.mode != "L" else image
        image.putpalette([channel for color in _voc_colors() for channel in color])
    image.save(path)


def _voc_colors() -> list[tuple[int, int, int]]:
    """VOC's colour map: the bits of the number dealt out to the channels, highest bit first."""
    return [
        tuple(sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3))
        for number in range(256)
    ]


def _write_text(path: Path, text: str) -> None:
    with complete_file(path) as part:
        part.write_text(text)


def _shapes(root: Path, rng: np.random.Generator) -> None:
    for split, count in (("train", TRAIN), ("val", VAL)):
        recipe = shapes.RECIPES[split]
        for index in range(count):
            scene = shapes.render_scene(recipe, index)
            _save(root / "shapes" / split / "images" / f"{index:05d}.png", scene.image)
            _save(root / "shapes" / split / "labels" / f"{index:05d}.png", scene.labels)
        _write_text(
            root / "shapes" / split / "recipe.json", json.dumps(asdict(recipe))
        )  # so that it is taken for whole


def _camvid(root: Path, rng: np.random.Generator) -> None:
    for split, count in (("train", TRAIN), ("val", VAL), ("test", VAL)):
        for index, (image, labels) in enumerate(_scenes(rng, count, np.arange(11), void=11)):
            _save(root / "camvid" / split / f"0001TP_{index:06d}.png", image)
            _save(root / "camvid" / f"{split}annot" / f"0001TP_{index:06d}.png", labels)


def _own(root: Path, rng: np.random.Generator) -> None:
    """A user's folder; some photos are narrower than any crop."""
    for split, count in (("train", TRAIN), ("val", VAL)):
        for index, (image, labels) in enumerate(_scenes(rng, count, np.arange(3), void=255)):
            height = 3 if index == 1 else len(image)
            _save(root / "own" / split / "images" / f"{index}.png", image[:height])
            _save(root / "own" / split / "labels" / f"{index}_mask.png", labels[:height])
    _write_text(root / "own" / "names.txt", "road\nmy cat\t1 2 3\nsky\n")


def _ade20k(root: Path, rng: np.random.Generator) -> None:
    folder = root / "ADEChallengeData2016"
    for split, short, count in (("training", "train", TRAIN), ("validation", "val", VAL)):
        for index, (image, labels) in enumerate(_scenes(rng, count, np.arange(1, 151), void=0)):
            _save(folder / "images" / split / f"ADE_{short}_{index + 1:08d}.jpg", image)
            _save(folder / "annotations" / split / f"ADE_{short}_{index + 1:08d}.png", labels)
    _write_text(folder / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName\n")


def _ade20k_847(root: Path, rng: np.random.Generator) -> None:
    numbers = load_script("datasets/prepare_ade20k_847.py").NUMBERS
    unlisted = max(numbers) + 1
    for scene, short, count in (("training/home/bedroom", "train", TRAIN), ("validation/urban/street", "val", VAL)):
        folder = root / "ADE20K_2021_17_01/images/ADE" / scene
        for index, (image, labels) in enumerate(_scenes(rng, count, numbers, void=unlisted)):
            name = f"ADE_{short}_{index + 1:08d}"
            labels[0] = 0  # no object
            instance = rng.integers(0, 256, labels.shape)
            _save(folder / f"{name}.jpg", image)
            _save(folder / f"{name}_seg.png", np.stack([labels // 256 * 10 + index, labels % 256, instance], axis=2))
            _save(folder / f"{name}_parts_1.png", image)
            _save(folder / name / f"instance_000_{name}.png", instance)


def _cityscapes(root: Path, rng: np.random.Generator) -> None:
    classes = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])
    for split, city, count in (("train", "aachen", TRAIN), ("val", "frankfurt", VAL), ("test", "berlin", VAL)):
        values = np.array([1, 2, 3]) if split == "test" else classes  # its public labels are dummies
        for index, (image, labels) in enumerate(_scenes(rng, count, values, void=3)):
            frame = f"{city}_{index:06d}_000019"
            labels[0] = 1  # ego vehicle, another void
            _save(root / "cityscapes/leftImg8bit" / split / city / f"{frame}_leftImg8bit.png", image)
            truth = root / "cityscapes/gtFine" / split / city / f"{frame}_gtFine"
            _save(truth.with_name(f"{truth.name}_labelIds.png"), labels)
            _save(truth.with_name(f"{truth.name}_color.png"), image)
            Image.fromarray(labels.astype(np.uint16) * 1000).save(truth.with_name(f"{truth.name}_instanceIds.png"))
            _write_text(truth.with_name(f"{truth.name}_polygons.json"), '{"objects": []}')


def _voc2012(root: Path, rng: np.random.Generator) -> None:
    voc, sbd = root / "VOCdevkit/VOC2012", root / "benchmark_RELEASE/dataset"
    names = {"train": [], "val": []}
    for number, (image, labels) in enumerate(_scenes(rng, TRAIN + VAL, np.arange(21), VOID_OUTLINE)):
        names["train" if number < TRAIN else "val"].append(name := f"2007_{number:06d}")
        _save(voc / "JPEGImages" / f"{name}.jpg", image)
        _save(voc / "SegmentationClass" / f"{name}.png", labels, palette=True)
        _save_sbd(sbd / "cls" / f"{name}.mat", np.where(labels == VOID_OUTLINE, 0, labels))
    extra = []
    for number, (image, labels) in enumerate(_scenes(rng, TRAIN, np.arange(21), void=0)):
        extra.append(name := f"2008_{number:06d}")
        _save(voc / "JPEGImages" / f"{name}.jpg", image)
        _save_sbd(sbd / "cls" / f"{name}.mat", labels)
    for split, listed in names.items():
        _write_text(voc / "ImageSets/Segmentation" / f"{split}.txt", "".join(f"{name}\n" for name in listed))
    # SBD's own split cuts across VOC's: both of its lists have images of VOC's train and val.
    _write_text(sbd / "train.txt", "".join(f"{name}\n" for name in [*extra[:-1], *names["val"]]))
    _write_text(sbd / "val.txt", "".join(f"{name}\n" for name in [extra[-1], *names["train"]]))


def _save_sbd(path: Path, labels: NDArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    present = np.unique(labels[labels > 0])[:, None]
    content = {"Boundaries": np.zeros((20, 1)), "Segmentation": labels.astype(np.uint8), "CategoriesPresent": present}
    scipy.io.savemat(path, {"GTcls": content}, do_compression=True)


def _coco_stuff(root: Path, rng: np.random.Generator) -> None:
    for split, count in (("train2017", TRAIN), ("val2017", VAL)):
        for index, (image, labels) in enumerate(_scenes(rng, count, np.array(CLASS_IDS) - 1, void=255)):
            _save(root / "coco" / split / f"{index + 9:012d}.jpg", image)
            _save(root / "coco/stuffthingmaps" / split / f"{index + 9:012d}.png", labels)


def _pascal_context(root: Path, rng: np.random.Generator) -> None:
    names = dict(zip(CONTEXT_IDS, builtin_classes("pascal_context").names, strict=True))
    listed = "".join(f"{number}: {names.get(number, f'other thing {number}')}\n" for number in range(1, 460))
    _write_text(root / "pascal_context/labels.txt", listed)
    voc = root / "VOCdevkit/VOC2010"
    (root / "pascal_context/trainval").mkdir(parents=True)
    for split, count in (("train", TRAIN), ("val", VAL)):
        frames = []
        for index, (image, labels) in enumerate(_scenes(rng, count, np.array(CONTEXT_IDS), void=459)):
            labels[0] = 0  # unlabelled
            frames.append(name := f"2008_{index + 10 * (split == 'val'):06d}")
            _save(voc / "JPEGImages" / f"{name}.jpg", image)
            matrix = {"LabelMap": labels.astype(np.uint16)}
            scipy.io.savemat(root / "pascal_context/trainval" / f"{name}.mat", matrix, do_compression=True)
        _write_text(voc / "ImageSets/Main" / f"{split}.txt", "".join(f"{name}\n" for name in frames))
        _write_text(voc / "ImageSets/Main" / f"cow_{split}.txt", "".join(f"{name} -1\n" for name in frames))


_MAKERS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "shapes": _shapes,
    "camvid": _camvid,
    "own": _own,
    "ade20k": _ade20k,
    "ade20k_847": _ade20k_847,
    "cityscapes": _cityscapes,
    "voc2012": _voc2012,
    "coco_stuff": _coco_stuff,
    "pascal_context": _pascal_context,
}
