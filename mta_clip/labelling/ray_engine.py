"""Engine: actors of Ray Data, on this machine or on a cluster.

The blocks are written to Parquet files first, which Ray Data streams to the actors, one block to an actor that is free:
neither this process nor Ray's object store ever holds more than a few. Source: https://docs.ray.io/en/latest/data/
"""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import import_extra
from .index import Count
from .inputs import Block, Input

if TYPE_CHECKING:
    import pyarrow

PLAN_ROWS = 200  # blocks in a file of the plan


def run_ray(
    start: Callable[[int], Callable[[Block], Count]], blocks: Iterable[Block], *, workers: int, gpus: bool, plan: Path
) -> Iterator[Count]:
    """Yields the results of all blocks, as they get done. Ray restarts actors that die, and repeats their blocks.

    Joins the cluster that RAY_ADDRESS names, else starts Ray on this machine.

    Args:
        start: called in each actor with 0, as Ray shows it only its own GPU; makes the function that labels a block.
        blocks: see `cut`.
        workers: actors.
        gpus: whether each actor has a GPU, else a core.
        plan: folder for the list of blocks, which all machines of the cluster see.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ray.exceptions.RayError: what `start` or the work raises, or the loss of the cluster.
    """
    ray = import_extra("ray", "ray", "--engine ray")
    import_extra("ray.data", "ray", "--engine ray")
    if not _write_plan(blocks, plan):
        return
    if not ray.is_initialized():
        # Without an address Ray would also join a cluster that somebody else has started here.
        ray.init(os.environ.get("RAY_ADDRESS", "local"), log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    counts = (
        ray.data.read_parquet(str(plan))
        .repartition(target_num_rows_per_block=1)  # of Ray's blocks: one of ours each
        .map_batches(
            _Actor,
            fn_constructor_args=(start,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            **({"num_gpus": 1} if gpus else {"num_cpus": 1}),
        )
    )
    for row in counts.iter_rows():
        yield Count(**row)


class _Actor:
    """Holds the model."""

    def __init__(self, start: Callable[[int], Callable[[Block], Count]]) -> None:
        self._label = start(0)

    def __call__(self, batch: "pyarrow.Table") -> dict[str, list[int]]:
        rows = batch.to_pylist()
        blocks = (Block(row["block"], tuple(Input(**item) for item in row["inputs"])) for row in rows)
        counts = [self._label(block) for block in blocks]
        return {field: [getattr(count, field) for count in counts] for field in Count._fields}


def _write_plan(blocks: Iterable[Block], folder: Path) -> int:
    """Writes the blocks to files; returns how many files."""
    import pyarrow as pa
    from pyarrow import parquet

    blocks, number = iter(blocks), 0
    folder.mkdir(parents=True, exist_ok=True)
    while some := list(islice(blocks, PLAN_ROWS)):
        rows: list[dict[str, Any]] = [
            {"block": block.name, "inputs": [item._asdict() for item in block.inputs]} for block in some
        ]
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{number:06d}.parquet")
        number += 1
    return number
