"""Rows about images: a Parquet file per block, joined to one index. Shapes: C classes."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..extras import import_extra
from ..files import complete_file

if TYPE_CHECKING:
    import pyarrow

OK, FAILED = "ok", "failed"


class Count(NamedTuple):
    """How many images have rows, and how many of these failed."""

    images: int
    failed: int


def parquet() -> Any:
    """The module pyarrow.parquet; ModuleNotFoundError without the extra `scale`."""
    return import_extra("pyarrow.parquet", "scale", "mta-clip label")


def schema() -> "pyarrow.Schema":
    """Columns of the index; what could not be computed is null.

    path: of the image; label: of its label map below the output, `shard#entry` in a shard; height, width: of both, in
    pixels; shares: {class: share of the pixels} in 0..1, present classes only; mean_confidence: 0..1; status: "ok" or
    "failed"; error: why it failed.
    """
    pa = import_extra("pyarrow", "scale", "mta-clip label")
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            ("label", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("shares", pa.map_(pa.string(), pa.float32())),
            ("mean_confidence", pa.float32()),
            pa.field("status", pa.string(), nullable=False),
            ("error", pa.string()),
        ]
    )


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Count:
    """Writes the rows of a block, all or none."""
    import pyarrow as pa

    with complete_file(path) as part:
        parquet().write_table(pa.Table.from_pylist(rows, schema=schema()), part)
    return Count(len(rows), sum(row["status"] == FAILED for row in rows))


def count_rows(path: Path) -> Count:
    """Counts the rows of a block."""
    status = parquet().read_table(path, columns=["status"])["status"].to_pylist()
    return Count(len(status), status.count(FAILED))


def join_rows(paths: Iterable[Path], output: Path, *, at_once: int = 10_000) -> Count:
    """Joins rows of blocks to one file in which groups have about `at_once` rows; returns their number."""
    import pyarrow as pa

    total = Count(0, 0)
    with complete_file(output) as part, parquet().ParquetWriter(part, schema()) as writer:
        for tables in _groups(map(parquet().read_table, paths), at_once):
            table = pa.concat_tables(tables)
            failed = table["status"].to_pylist().count(FAILED)
            total = Count(total.images + len(table), total.failed + failed)
            writer.write_table(table)
    return total


def _groups(tables: Iterable["pyarrow.Table"], at_once: int) -> Iterator[list["pyarrow.Table"]]:
    group: list[pyarrow.Table] = []
    for table in tables:
        group.append(table)
        if sum(map(len, group)) >= at_once:
            yield group
            group = []
    if group:
        yield group
