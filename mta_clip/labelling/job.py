"""A labelling job: checks, skips what is done, runs an engine, and joins the rows of all blocks to the index."""

import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from ..files import complete_file, read_json
from .index import Count, count_rows, join_rows
from .inputs import Block, cut, find_inputs
from .local import run_local
from .ray_engine import run_ray
from .shards import LABELS
from .worker import BLOCKS, Labeller, Task, rows_file

INDEX, SETTINGS = "index.parquet", "job.json"  # files of the output
ENGINES = ("local", "ray")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """What labels blocks.

    Args:
        name: one of ENGINES.
        workers: processes or actors; on GPUs, each has its own.
        device: "cpu" or "cuda".
    """

    name: str = "local"
    workers: int = 1
    device: str = "cpu"

    def run(self, task: Task, blocks: Iterable[Block]) -> Iterator[Count]:
        """Yields how many images a block had, as blocks get done; see `run_local` and `run_ray`."""
        start = functools.partial(start_labeller, task, self)
        if self.name == "local":
            yield from run_local(start, blocks, workers=self.workers)
            return
        plan = Path(task.output) / "plan"
        shutil.rmtree(plan, ignore_errors=True)  # of a run that was killed
        try:
            yield from run_ray(start, blocks, workers=self.workers, gpus=self.device == "cuda", plan=plan)
        finally:
            shutil.rmtree(plan, ignore_errors=True)


def start_labeller(task: Task, engine: Engine, index: int) -> Labeller:
    """Makes the labeller of a process: on its GPU, or with its share of the cores."""
    if engine.device != "cuda" and "OMP_NUM_THREADS" not in os.environ:
        cores = 1 if engine.name == "ray" else len(os.sched_getaffinity(0)) // engine.workers
        torch.set_num_threads(max(1, cores))
    return Labeller(task, f"cuda:{index}" if engine.device == "cuda" else engine.device)


def label_images(
    source: str, task: Task, engine: Engine, *, settings: dict[str, Any], block_size: int, retry_failed: bool = False
) -> Count:
    """Labels all images of a source that are not labelled yet, and writes the index of all.

    Args:
        source: see `find_inputs`.
        task: its output is a folder that belongs to this job.
        settings: what label maps depend on, see `settings_of`; a job is continued only with the same.
        block_size: images per block, on average.
        retry_failed: whether blocks in which an image failed are done again.

    Returns:
        The number of rows in the index; every image has one.

    Raises:
        ValueError: the output belongs to a job with other settings.
        BlockingIOError: another run is at work there.
        Exception: see `find_inputs`, `run_local` and `run_ray`.
    """
    output = Path(task.output)
    own = (f"{os.path.abspath(output)}/", f"{os.path.realpath(output)}/")  # label maps are no images
    names: dict[str, None] = {}  # of blocks, in order
    with _claimed(output, settings | {"block_size": block_size}):
        done = {path.stem for path in (output / BLOCKS).glob("*.parquet")}
        bar = tqdm(unit="image", disable=None)

        def to_do() -> Iterator[Block]:
            inputs = (item for item in find_inputs(source) if not item.path.startswith(own))
            for block in cut(inputs, block_size):
                names[block.name] = None
                rows = rows_file(output, block.name)
                if block.name in done and not (retry_failed and count_rows(rows).failed):
                    bar.update(len(block.inputs))
                    continue
                yield block

        blocks = to_do()
        with bar:
            if (first := next(blocks, None)) is not None:  # else no model is loaded
                for count in engine.run(task, chain([first], blocks)):
                    bar.update(count.images)
        total = join_rows((rows_file(output, name) for name in names), output / INDEX)
        for name in done - names.keys():  # blocks as they were before images came or went
            rows_file(output, name).unlink()
            for shard in (output / LABELS).glob(f"{name}.*"):
                shard.unlink()
    return total


def settings_of(cfg: CfgNode, **more: Any) -> dict[str, Any]:
    """What label maps depend on: digests of config and weights, whatever their place and the device, and `more`."""
    cfg = cfg.clone()
    with open(cfg.MODEL.WEIGHTS, "rb") as weights:
        digest = hashlib.sha256()
        while chunk := weights.read(2**20):
            digest.update(chunk)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "", "cpu", ""
    return {"config": hashlib.sha256(cfg.dump().encode()).hexdigest(), "weights": digest.hexdigest(), **more}


@contextmanager
def _claimed(output: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Holds the folder for one run, of one job."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"{output}: another run is labelling there") from error
        file = output / SETTINGS
        if file.exists():
            before = read_json(file)
            if other := [key for key in {*before, *settings} if before.get(key) != settings.get(key)]:
                raise ValueError(
                    f"{output} holds labels of another job, with other settings ({', '.join(sorted(other))}): choose "
                    "another --output, or repeat the command of that job"
                )
        else:
            with complete_file(file) as part:
                part.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        yield
