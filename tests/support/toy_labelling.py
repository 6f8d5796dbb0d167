"""A stand-in for a model in labelling jobs: fast to import, and it dies where a test says so."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np

NAMES = ("dark", "bright")
COLORS = np.array([[0, 0, 0], [255, 255, 0]], np.uint8)
DEADLY = 66  # value of the first pixel at which the process is killed


class Toy:
    """Pixels above 100 are bright; keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.batches = []

    def stream(self, images, labels, *, other, threshold, batch_size):
        images = list(images)
        if labels is not None and len(labels) != 2:
            raise ValueError("this model takes two names")
        self.batches.append([image.shape[:2] for image in images])
        for image in images:
            if image[0, 0, 0] == DEADLY:
                os.kill(os.getpid(), signal.SIGKILL)
            if image[0, 0, 0] == 77:
                raise ValueError("no image with 77")
            found = (image[..., 0] > 100).astype(np.int64)
            yield SimpleNamespace(
                labels=found, class_names=labels or NAMES, colors=COLORS, confidence=np.full(found.shape, 0.5, "f4")
            )


def load_toy(device: str) -> Toy:
    return Toy()


class Doubler:
    """Doubles numbers; the first process that gets the name "deadly" is killed, others live."""

    def __init__(self, folder: str, index: int) -> None:
        self.folder = Path(folder)

    def __call__(self, item: "Number") -> int:
        (self.folder / f"{item.name}.{os.getpid()}").touch()
        if item.name == "deadly" and len(list(self.folder.glob("deadly.*"))) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if item.name == "wrong":
            raise ValueError("wrong item")
        return 2 * item.value


class Number(SimpleNamespace):
    """An item with a name and a value."""


def die(index: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
