"""Labels a block of images: the one function that both engines call.

A process that dies in a block leaves its file `.started`. Who takes the block over labels its images one by one, and
notes each path there before it is read: an image at which two of these died gets a row that says so.

Shapes: H, W image size.
"""

import errno
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError
from torch import OutOfMemoryError

from ..api.result import Segmentation
from ..data.image_files import DECODING_ERRORS, decode_image, describe_unknown, read_image
from ..visualization.label_png import label_picture
from .index import FAILED, OK, Count, write_rows
from .inputs import Block, Input, filesystem_of, utf8
from .shards import FORMATS, Writer

BLOCKS = "blocks"  # folder below the output
LETHAL = 2  # deaths of processes at an image, after which it is left out
HELD = 8  # batches of decoded images, or label maps that are not written yet, in memory at most
IMAGE_ERRORS = (*DECODING_ERRORS, MemoryError, OutOfMemoryError)  # that are about one image, not about the job
NAME_ERRORS = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR)  # of label maps; other errors stop the job
_ATTEMPT = "-"  # line of a `.started` file before the paths of an attempt

Item = TypeVar("Item")
Row: TypeAlias = dict[str, Any]
Decoded: TypeAlias = tuple[Input, NDArray[np.uint8]]


class Model(Protocol):
    """What labels images: a `Segmenter`, or anything with its `stream`."""

    def stream(
        self,
        images: Iterable[NDArray[np.uint8]],
        labels: Sequence[str] | None,
        *,
        other: str | None,
        threshold: float | None,
        batch_size: int,
    ) -> Iterable[Segmentation]:
        """See `Segmenter.stream`."""
        ...


@dataclass(frozen=True)
class Task:
    """What a process needs to label blocks; picklable.

    Args:
        load: makes the model on a device.
        output: folder of the job.
        names: to look for; None: the classes of the training.
        other: class of the pixels at which no name reaches a threshold, and the threshold, 0..1; None: there is none.
        format: one of FORMATS.
        batch_size: most images in a forward pass; images of different sizes are never in one.
        threads: that read, decode and encode files beside the model.
    """

    load: Callable[[str], Model]
    output: str
    names: tuple[str, ...] | None = None
    other: tuple[str, float] | None = None
    format: str = "png"
    batch_size: int = 4
    threads: int = 2


def rows_file(output: str | Path, block: str) -> Path:
    """Where the rows of a block are, once all of it is done."""
    return Path(output) / BLOCKS / f"{block}.parquet"


class Labeller:
    """Writes label maps and rows of blocks. An image that fails becomes a row.

    Args:
        task: see `Task`.
        device: such as "cpu" or "cuda:1".

    Raises:
        ValueError: the model cannot look for the names; see also `Task.load`.
    """

    def __init__(self, task: Task, device: str) -> None:
        self.task = task
        self._model = task.load(device)
        self._pool = ThreadPoolExecutor(task.threads)
        black = np.zeros((64, 64, 3), np.uint8)
        self._segment([black])  # wrong names fail here, not once per image

    def __call__(self, block: Block) -> Count:
        """Labels a block, and writes its rows once all its label maps are written.

        Raises:
            OSError: a file cannot be written.
        """
        rows = rows_file(self.task.output, block.name)
        started = rows.with_suffix(".started")
        started.parent.mkdir(parents=True, exist_ok=True)
        label = self._one_by_one if started.exists() else self._label
        started.touch()
        with FORMATS[self.task.format](Path(self.task.output), block.name) as write:
            found = label(block.inputs, write, started)
        count = write_rows(rows, [found[item.path] for item in block.inputs])
        started.unlink(missing_ok=True)
        return count

    def _one_by_one(self, inputs: Iterable[Input], write: Writer, started: Path) -> dict[str, Row]:
        attempts = started.read_text().split(f"{_ATTEMPT}\n")
        last = [attempt.splitlines()[-1] for attempt in attempts if attempt]
        rows = {}
        with started.open("a") as notes:
            notes.write(f"{_ATTEMPT}\n")
            for item in inputs:
                if last.count(ascii(item.path)) >= LETHAL:
                    rows[item.path] = _failure(item, f"a process died at this image, {LETHAL} times")
                    continue
                notes.write(f"{item.path!a}\n")
                notes.flush()
                rows |= self._label([item], write, started)
        return rows

    def _label(self, inputs: Iterable[Input], write: Writer, started: Path) -> dict[str, Row]:
        """Rows by path. Threads read and write files while the model works."""
        rows: dict[str, Row] = {}
        batches = batches_by_size(self._decoded(inputs, rows), self.task.batch_size)
        writing = (self._pool.submit(_finish, list(self._predicted(batch, rows)), write) for batch in batches)
        for written in _ahead(writing, HELD):
            rows |= written.result()
        return rows

    def _decoded(self, inputs: Iterable[Input], rows: dict[str, Row]) -> Iterator[Decoded]:
        inputs = iter(inputs)
        chunks = iter(lambda: list(islice(inputs, self.task.batch_size)), [])
        reading = (self._pool.submit(_read, chunk) for chunk in chunks)
        for chunk in _ahead(reading, self.task.threads + 2):
            for item, image in chunk.result():
                if isinstance(image, Exception):
                    rows[item.path] = _failure(item, image)
                else:
                    yield item, image

    def _predicted(self, batch: list[Decoded], rows: dict[str, Row]) -> Iterator[tuple[Input, Segmentation]]:
        items, images = zip(*batch, strict=True)
        try:
            results = self._segment(images)
        except IMAGE_ERRORS as error:
            if len(batch) == 1:
                rows[items[0].path] = _failure(items[0], error)
                return
            results = None
        if results is None:
            for one in batch:
                yield from self._predicted([one], rows)
        else:
            yield from zip(items, results, strict=True)

    def _segment(self, images: Sequence[NDArray[np.uint8]]) -> list[Segmentation]:
        other, threshold = self.task.other or (None, None)
        names, most = self.task.names, len(images)
        return list(self._model.stream(images, names, other=other, threshold=threshold, batch_size=most))


def batches_by_size(images: Iterable[Decoded], most: int) -> Iterator[list[Decoded]]:
    """Lists of up to `most` images of one size, so that a model need not pad any; HELD * `most` wait at most."""
    waiting: dict[tuple[int, ...], list[Decoded]] = {}
    held = 0
    for item, image in images:
        waiting.setdefault(image.shape, []).append((item, image))
        held += 1
        largest = max(waiting, key=lambda shape: len(waiting[shape]))
        if len(waiting[largest]) == most or held == HELD * most:
            held -= len(waiting[largest])
            yield waiting.pop(largest)
    yield from waiting.values()


def _ahead(items: Iterable[Item], number: int) -> Iterator[Item]:
    """The items, of which up to `number` are made before they are asked for."""
    items = iter(items)
    waiting = deque(islice(items, number))
    while waiting:
        yield waiting.popleft()
        waiting.extend(islice(items, 1))


def _read(items: Iterable[Input]) -> list[tuple[Input, NDArray[np.uint8] | Exception]]:
    """Images, or why they cannot be read. In lists, since each task of a thread costs as much as a tiny image."""
    found: list[tuple[Input, NDArray[np.uint8] | Exception]] = []
    for item in items:
        try:
            found.append((item, _image(item.path)))
        except IMAGE_ERRORS as error:
            found.append((item, error))
    return found


def _image(path: str) -> NDArray[np.uint8]:
    if "://" not in path:
        return read_image(path)
    files, inner = filesystem_of(path)
    try:
        data = files.cat_file(inner)
    except Exception as error:  # of any client library
        raise OSError(f"{path}: {type(error).__name__}: {error}") from error
    try:
        return decode_image(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise OSError(f"the image cannot be read ({describe_unknown(data)})") from error


def _finish(results: list[tuple[Input, Segmentation]], write: Writer) -> dict[str, Row]:
    """Writes label maps; returns the rows of their images by path."""
    return {item.path: _row(item, result, write) for item, result in results}


def _row(item: Input, result: Segmentation, write: Writer) -> Row:
    height, width = result.labels.shape
    pixels = np.bincount(result.labels.ravel())
    shares = {result.class_names[index]: pixels[index] / result.labels.size for index in np.flatnonzero(pixels)}
    try:
        label = write(item, label_picture(result.labels, result.colors))
    except OSError as error:
        if error.errno not in NAME_ERRORS:
            raise
        return _failure(item, error)
    return {
        "path": utf8(item.path),
        "label": label,
        "height": height,
        "width": width,
        "shares": list(shares.items()),
        "mean_confidence": float(result.confidence.mean()),
        "status": OK,
    }


def _failure(item: Input, error: Exception | str) -> Row:
    reason = str(error).removeprefix(f"{item.path}: ") or type(error).__name__
    return {"path": utf8(item.path), "status": FAILED, "error": utf8(reason)}
