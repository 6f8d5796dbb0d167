#!/usr/bin/env python
"""Measures `mta-clip label`: overhead against a bare loop, a second worker, and the memory of the driver.

    python tools/label_benchmark.py overhead --config-file output/demo --input 'datasets/shapes/val/images/*.png'
    python tools/label_benchmark.py workers --config-file output/demo --input 'datasets/shapes/val/images/*.png'
    python tools/label_benchmark.py memory --images 100000

Everything is measured in turns, in one run. CPU seconds hold on a machine that others use too; images per second need a
quiet one. `memory` labels links to one tiny image with a model that answers at once.
"""

import mta_clip  # noqa: F401  # isort: skip  (before detectron2, which it makes importable)

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from mta_clip.api.find import find_model
from mta_clip.api.load import load_segmenter
from mta_clip.data import read_image
from mta_clip.labelling.index import Count
from mta_clip.labelling.inputs import Block, cut, find_inputs
from mta_clip.labelling.job import Engine, label_images
from mta_clip.labelling.worker import Labeller, Task
from mta_clip.visualization import save_label_map


class Instant:
    """A model that finds its only class everywhere."""

    def stream(self, images, labels, *, other, threshold, batch_size) -> Iterator[SimpleNamespace]:
        for image in images:
            size = image.shape[:2]
            labels, confidence = np.zeros(size, np.int64), np.ones(size, np.float32)
            colors = np.zeros((1, 3), np.uint8)
            yield SimpleNamespace(labels=labels, confidence=confidence, class_names=("all",), colors=colors)


def load_instant(device: str) -> Instant:
    return Instant()


def load_model(config: str) -> Callable:
    cfg = find_model(config, overrides=["MODEL.DEVICE", "cpu", "MODEL.COMPILE", False])
    return functools.partial(load_segmenter, cfg)


def cpu_seconds(work: Callable, *arguments: object) -> float:
    """Of all threads of this process."""
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def bare_loop(model: object, paths: list[str], output: Path) -> None:
    """What one would write by hand: an image after the other, no rows."""
    for index, result in enumerate(model.stream(map(read_image, paths), None, batch_size=4)):
        save_label_map(result.labels, output / f"{index}.png", result.colors)


def overhead(args: argparse.Namespace) -> dict[str, object]:
    """CPU seconds of a labeller and of a bare loop, in turns."""
    inputs = tuple(find_inputs(args.input))
    load = load_model(args.config_file)
    loop, labeller = [], []
    with tempfile.TemporaryDirectory() as folder:
        label = Labeller(Task(load, folder), "cpu")
        for turn in range(args.turns + 1):
            output = Path(folder) / f"bare{turn}"
            output.mkdir()
            loop.append(cpu_seconds(bare_loop, label._model, [item.path for item in inputs], output))
            labeller.append(cpu_seconds(label, Block(f"turn{turn}", inputs)))
    loop, labeller = loop[1:], labeller[1:]  # the first turn warms up
    ratio = statistics.median(mine / bare for mine, bare in zip(labeller, loop, strict=True))
    return {"images": len(inputs), "bare": loop, "labeller": labeller, "overhead": ratio - 1}


def workers(args: argparse.Namespace) -> dict[str, object]:
    """Images per second of 1 and 2 workers, in turns, from the first block that is done to the last."""
    load, rates = load_model(args.config_file), {1: [], 2: []}
    for _ in range(args.turns):
        for number, measured in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                blocks = Engine(workers=number).run(Task(load, folder), cut(find_inputs(args.input), args.block_size))
                next(blocks)
                start = time.perf_counter()
                measured.append(sum(count.images for count in blocks) / (time.perf_counter() - start))
    one, two = map(statistics.median, rates.values())
    return {"images_per_s": rates, "speedup": two / one, "load": os.getloadavg()[0]}


def memory(args: argparse.Namespace) -> dict[str, object]:
    """Memory of the driver in MiB, as it hands out the blocks of many tiny images."""
    readings: list[tuple[int, float]] = []

    class Observed:
        def run(self, task: Task, blocks: Iterator[Block]) -> Iterator[Count]:
            done = 0
            for count in Engine(workers=args.workers).run(task, blocks):
                done += count.images
                if done >= len(readings) * args.images / 20:
                    readings.append((done, resident_mib()))
                yield count

    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        make_links(photos, args.images)
        start = time.process_time()
        task = Task(load_instant, f"{folder}/out", format="parquet")
        total = label_images(str(photos), task, Observed(), settings={}, block_size=256)
    driver = (time.process_time() - start) / args.images
    return {"rows": total.images, "failed": total.failed, "driver_cpu_s_per_image": driver, "mib": readings}


def make_links(folder: Path, images: int) -> None:
    """Fills subfolders of 1000 with links to an image of 8x8 pixels."""
    for index in range(images):
        path = folder / f"{index // 1000:04d}" / f"{index % 1000:03d}.png"
        if index % 1000 == 0:
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(path)
            first = path
        else:
            path.hardlink_to(first)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="MEASUREMENT")
    for measure in (overhead, workers, memory):
        command = commands.add_parser(measure.__name__, help=measure.__doc__)
        command.set_defaults(measure=measure)
        if measure is memory:
            command.add_argument("--images", type=int, default=100_000)
            command.add_argument("--workers", type=int, default=2)
            continue
        command.add_argument("--config-file", required=True, help="folder of a run or saved model")
        command.add_argument("--input", required=True)
        command.add_argument("--turns", type=int, default=5)
        if measure is workers:
            command.add_argument("--block-size", type=int, default=8)
    args = parser.parse_args(arguments)
    print(json.dumps(args.measure(args), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
