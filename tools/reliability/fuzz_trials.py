"""Gives an input of fuzz_inputs.py to the code, and judges what comes of it.

A trial returns "right" or "refused", the latter if there was one clear message. Whatever else happens is a `Wrong`.
"""

import mta_clip  # noqa: F401  # isort: skip  (before detectron2, which it makes importable)

import contextlib
import functools
import io
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.utils.logger import setup_logger
from fuzz_files import write_checkpoint, write_class_names, write_image, write_label_map
from fuzz_folders import expected_trouble, write_folder
from fuzz_inputs import Recipe
from PIL import Image
from torch import nn

from mta_clip.cli.main import USER_ERRORS, main
from mta_clip.config_loader import load_config

LONGEST_MESSAGE = 3000  # characters; longer ones are no clear messages


class Wrong(AssertionError):
    """An input led to something else than a right result or one clear message."""


def check(condition: bool, message: str) -> None:
    if not condition:
        raise Wrong(message)


def refused(error: BaseException, named: str) -> str:
    """Judges an error: a user has to be able to mend it, and it has to name what is wrong.

    Args:
        named: what the message has to name; "" for nothing.
    """
    shown = "".join(traceback.format_exception(error))[-3000:]
    check(isinstance(error, USER_ERRORS), f"no error of the user: {shown}")
    message = str(error)
    check(bool(message.strip()) and len(message) <= LONGEST_MESSAGE, f"{len(message)} characters: {message[:300]}")
    check(named in message, f"the message does not name {named}: {message[:300]} {shown}")
    return "refused"


def run_command(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Runs `mta-clip` in this process and a folder; returns its exit status and what it printed."""
    out = io.StringIO()
    with contextlib.chdir(folder), fresh_loggers(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except Exception as error:
            raise Wrong(f"{arguments}: " + "".join(traceback.format_exception(error))[-3000:]) from error
    return status, out.getvalue()


@contextlib.contextmanager
def fresh_loggers() -> Iterator[None]:
    """Loggers as in a new process, for a command that sets them up; then again as before."""
    loggers = [logging.getLogger(name) for name in (None, "fvcore", "detectron2", "mta_clip")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers = []
    try:
        yield
    finally:
        setup_logger.cache_clear()
        for logger, state in zip(loggers, before, strict=True):
            logger.handlers, logger.level, logger.propagate = state


def judge_command(arguments: list[str], folder: Path, named: Sequence[str] = ("",)) -> str:
    """Runs a command, and judges what it says: a message has to name one of `named`."""
    status, shown = run_command(arguments, folder)
    check(status in (0, 1, 2), f"exit status {status} of {arguments}: {shown[-500:]}")
    check("Traceback" not in shown, f"a traceback of {arguments}: {shown[-2000:]}")
    if status == 2:
        check("usage: mta-clip" in shown, f"exit status 2 without usage of {arguments}: {shown[-500:]}")
    if status == 1:
        check(any(word in shown for word in ("error: ", "FAILED ", "TROUBLE: ")), f"no message: {shown[-500:]}")
        check(any(name in shown for name in named), f"the message names none of {named}: {shown[-500:]}")
    return "refused" if status else "right"


@functools.cache
def tiny_model() -> Any:
    """A small random MTA-CLIP that segments images."""
    from detectron2.modeling import build_model

    from mta_clip.api.segmenter import Segmenter

    torch.manual_seed(0)
    cfg = load_config("shapes/mta_clip_tiny", ["DATASETS.TRAIN", "()", "MODEL.DEVICE", "cpu", *TINY])
    return Segmenter(build_model(cfg).eval(), cfg)


TINY = ["INPUT.MIN_SIZE_TEST", 32, "INPUT.MAX_SIZE_TEST", 64, "MODEL.PROMPT.CLASS_NAMES", ["sky", "red car", "tree"]]
TINY += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3]


def try_image(recipe: Recipe, folder: Path) -> str:
    from mta_clip.data import read_image

    path, expected = write_image(recipe, folder)
    try:
        image = read_image(path)
    except Exception as error:
        check(expected is None, f"a whole image is refused: {error}")
        return refused(error, str(path))
    check(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, f"{image.dtype} {image.shape}")
    if expected is not None:
        check(image.shape == expected.shape, f"{image.shape} instead of {expected.shape}")
        check(np.array_equal(image, expected), f"other pixels, by up to {np.abs(image * 1.0 - expected).max()}")
    if recipe.get("predict") and image.size < 3e6:
        result = tiny_model()(path, scores=False)
        check(result.labels.shape == image.shape[:2], f"labels {result.labels.shape} of an image {image.shape}")
        check(result.labels.min() >= 0 and result.labels.max() < 3, "labels that are no classes")
        check(bool(np.isfinite(result.confidence).all()), "confidences that are not finite")
    return "right"


def try_label_map(recipe: Recipe, folder: Path) -> str:
    from mta_clip.data import LabelReader

    path, meanings = folder / "labels.png", dict(map(tuple, recipe["label_map"]))
    stored = write_label_map(recipe, path)
    classes, ignore = recipe["classes"], recipe["ignore_label"]
    try:
        reader = LabelReader(num_classes=classes, ignore_label=ignore, label_map=meanings)
    except Exception as error:
        return refused(error, "")
    size = recipe["image_size"] and tuple(reversed(recipe["image_size"]))
    try:
        labels = reader.read(path, size=size)
    except Exception as error:
        verdict, labels = refused(error, str(path)), None
    if recipe["damage"]:
        return verdict if labels is None else "right"
    meant = None if stored is None else np.vectorize(lambda v: meanings.get(v, v), otypes=[np.int64])(stored)
    fits = meant is not None and bool((((meant >= 0) & (meant < classes)) | (meant == ignore)).all())
    fits = fits and (size is None or stored.shape == size)
    check(fits == (labels is not None), f"{'refused' if fits else 'accepted'}: values {np.unique(stored)[:9]}")
    check(labels is None or np.array_equal(labels.astype(np.int64), meant), "other labels")
    return "right" if fits else "refused"


def try_folder(recipe: Recipe, folder: Path) -> str:
    from mta_clip.config import get_cfg
    from mta_clip.data import register_folders
    from mta_clip.data.check import check_dataset
    from mta_clip.data.own_folder import own_config

    named, trouble = write_folder(recipe, folder), expected_trouble(recipe)
    try:
        cfg = own_config(get_cfg(), **named, val_share=recipe["val_share"])
        register_folders(cfg)
        findings = [check_dataset(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)]
        troubles = [trouble for found in findings for trouble in found.troubles()]
    except Exception as error:
        refused(error, "")
        troubles = [str(error)]
    check(trouble is None or trouble == bool(troubles), f"expected trouble: {trouble}; told: {troubles}")
    if recipe["command"]:
        options = [part for name, path in named.items() for part in (f"--{name}", path)]
        return judge_command(["check", *options, "--workers", "0", "--output", str(folder / "out")], folder)
    return "refused" if troubles else "right"


def write_training(folder: Path) -> Path:
    """Two photos, and the config of a tiny model that trains on them for one iteration."""
    recipe = {"layout": "flat", "photos": ["none", "none"], "classes": 2}
    write_folder(recipe, folder)
    data = {"name": "fuzz", "image_dir": "data/images", "label_dir": "data/labels", "classes": "data/names.txt"}
    config = {
        "_BASE_": load_config_path("shapes/mta_clip_tiny"),
        "DATASETS": {"FOLDERS": [data], "TRAIN": ["fuzz"], "TEST": ["fuzz"]},
        "MODEL": {"DEVICE": "cpu", "SEM_SEG_HEAD": {"NUM_CLASSES": 2}, "MASK_FORMER": {"TRAIN_NUM_POINTS": 32}},
        "INPUT": {"MIN_SIZE_TRAIN": [32], "MIN_SIZE_TEST": 32, "CROP": {"SIZE": [32, 32]}},
        "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 1},
        "DATALOADER": {"NUM_WORKERS": 0},
        "OUTPUT_DIR": "out",
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(config))
    return folder / "base.yaml"


def load_config_path(name: str) -> str:
    from mta_clip.config_names import find_config

    return str(Path(find_config(name)).absolute())


# Values that ask for what takes long: a schedule without end, a compiler, a million processes.
LONG = {("MODEL.COMPILE", True), *(("SOLVER.MAX_ITER", value) for value in (10**6, 10**12))}
LONG |= {("DATALOADER.NUM_WORKERS", value) for value in (7, 10**6, 10**12)}


def try_config(recipe: Recipe, folder: Path) -> str:
    base = write_training(folder)
    file = folder / "config.yaml"
    overrides: list[str] = []
    content: dict[str, Any]
    if "junk" in recipe:
        file.write_bytes(bytes(recipe["junk"]))
    elif "text" in recipe:
        file.write_text(recipe["text"])
    elif "entry" in recipe:
        content = yaml.safe_load(base.read_text())
        content["DATASETS"]["FOLDERS"][0] |= recipe["entry"]
        file.write_text(yaml.safe_dump(content))
    elif "bases" in recipe:
        write_bases(recipe["bases"], file)
    else:
        ((key, value),) = recipe["values"].items()
        *sections, last = key.split(".")
        if any(key == name and value == long and type(value) is type(long) for name, long in LONG):
            return "right"
        if recipe["overrides"]:
            file, overrides = base, [key, str(value)]
        else:
            content = {"_BASE_": base.name}
            node = content
            for section in sections:
                node = node.setdefault(section, {})
            node[last] = value
            file.write_text(yaml.safe_dump(content))
    if "values" in recipe:
        train = ["train", "--overwrite", "--config-file", file.name, *overrides]
        return judge_command(train, folder, (last, key.split(".")[0], str(value)))
    entry = recipe.get("entry", {})
    named = (
        file.name,
        "gone.yaml",
        "Is a directory",
        "is empty",
        "itself",
        "DATASETS",
        *entry,
        *map(str, entry.values()),
    )
    return judge_command(["info", file.name], folder, named)


def write_bases(bases: list[Any], file: Path) -> None:
    names = {
        "itself": file.name,
        "each other": "other.yaml",
        "missing": "gone.yaml",
        "folder": ".",
        "base": "base.yaml",
    }
    found = [names.get(base, base) if isinstance(base, str) else base for base in bases]
    file.write_text(yaml.safe_dump({"_BASE_": found if len(found) != 1 else found[0]}))
    (file.parent / "other.yaml").write_text(yaml.safe_dump({"_BASE_": file.name}))


def try_class_names(recipe: Recipe, folder: Path) -> str:
    from mta_clip.data.classes import read_classes

    path = folder / "names.txt"
    names = write_class_names(recipe, path)
    try:
        found = read_classes(path)
    except Exception as error:
        verdict, found = refused(error, str(path)), None
    if found is not None:
        check(len(found.names) == len(found.colors) == len(set(found.names)), "as many names as colours, all different")
        check(not any(set(name) & set("\0\ufeff\n\r") for name in found.names), f"odd characters: {found.names}"[:300])
    if names is None:
        return "right" if found else verdict
    lines = [line for name in names for line in name.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    nameless = bool(recipe["colors"]) and not all(line.strip() for line in lines)
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    expected = [line.partition("\t")[0].strip() for line in lines]
    plain = not any(ord(letter) < 32 or 127 <= ord(letter) < 160 or letter == "\ufeff" for letter in "".join(lines))
    plain = plain and recipe["colors"] in ("", "1 2 3") and "" not in expected and not nameless
    if plain and expected and len(set(expected)) == len(expected) and recipe["encoding"].startswith("utf-8"):
        check(found is not None, f"a list that is right is refused: {names}"[:300])
    check(found is None or not plain or list(found.names) == expected, f"{found} instead of {expected}"[:500])
    return "right" if found else verdict


class Small(nn.Module):
    """A model of 20 KiB."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(48, 64), nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def try_checkpoint(recipe: Recipe, folder: Path) -> str:
    from mta_clip.checkpoint import SegmentationCheckpointer
    from mta_clip.engine.trained_model import saved_config

    torch.manual_seed(0)
    saved, loaded = Small(), Small()
    with torch.no_grad():
        path = write_checkpoint(recipe, saved, folder)
    try:
        SegmentationCheckpointer(loaded).load(str(path))
        saved_config(str(path))
    except Exception as error:
        whole = not (recipe["damage"] or recipe["link"] not in ("", "file") or recipe["kilobytes"] is not None)
        check(
            not whole or recipe["edit"] not in ("none", "module", "types"),
            f"a whole checkpoint is refused: {error}",
        )
        return refused(error, "")
    same = all(
        torch.equal(a, b) for a, b in zip(saved.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    checked = recipe["format"] == "zip" or not recipe["damage"]  # the other formats have no checksums
    exact = recipe["edit"] in ("none", "module") and recipe["format"] != "script"
    check(same or not (checked and exact), "other numbers are loaded")
    return "right"


def try_command_line(recipe: Recipe, folder: Path) -> str:
    write_training(folder)
    (folder / "base.yaml").rename(folder / "config.yaml")
    Image.new("RGB", (20, 10)).save(folder / "photo.png")
    (folder / "photos").mkdir()
    (folder / "names.txt").write_text("sky\nroad")
    torch.save({"model": {"weight": torch.zeros(3)}}, folder / "model.pth")
    words = [word for part in recipe["first"] for word in part] + recipe["words"]
    return judge_command([recipe["command"], *words], folder)


TRIALS: dict[str, Callable[[Recipe, Path], str]] = {
    "image": try_image,
    "label map": try_label_map,
    "folder": try_folder,
    "config": try_config,
    "class names": try_class_names,
    "checkpoint": try_checkpoint,
    "command line": try_command_line,
}
