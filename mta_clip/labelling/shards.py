"""Where the label maps of a block go: a PNG file each, or one Parquet or WebDataset file for all."""

import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from ..files import complete_file
from .inputs import Input, utf8

LABELS = "labels"  # folder below the output
# Takes a label map of an image from any thread; returns where it will be, below the output.
Writer: TypeAlias = Callable[[Input, Image.Image], str]


@contextmanager
def png_files(output: Path, block: str) -> Iterator[Writer]:
    """labels/<path below the input>.png; the suffix of the image stays in the name, so that no two collide."""

    def write(item: Input, picture: Image.Image) -> str:
        name = f"{LABELS}/{item.name}.png"
        with complete_file(output / name) as part:
            picture.save(part, format="PNG")
        return utf8(name)

    yield write


@contextmanager
def parquet_shard(output: Path, block: str) -> Iterator[Writer]:
    """labels/<block>.parquet with the columns path, name and png (the bytes of the file)."""
    import pyarrow as pa
    from pyarrow import parquet

    name, rows = f"{LABELS}/{block}.parquet", []

    def write(item: Input, picture: Image.Image) -> str:
        rows.append({"path": utf8(item.path), "name": utf8(item.name), "png": _png(picture)})
        return f"{name}#{utf8(item.name)}"

    yield write
    columns = pa.schema([("path", pa.string()), ("name", pa.string()), ("png", pa.binary())])
    with complete_file(output / name) as part:
        parquet.write_table(pa.Table.from_pylist(rows, schema=columns), part)


@contextmanager
def webdataset_shard(output: Path, block: str) -> Iterator[Writer]:
    """labels/<block>.tar with samples NUMBER.png, NUMBER.json; the latter has path and name of the image."""
    name, lock = f"{LABELS}/{block}.tar", threading.Lock()
    with complete_file(output / name) as part, tarfile.open(part, "w") as tar:
        samples = 0

        def write(item: Input, picture: Image.Image) -> str:
            nonlocal samples
            content = {"png": _png(picture), "json": json.dumps(item._asdict()).encode()}
            with lock:
                key, samples = f"{samples:06d}", samples + 1
                for suffix, data in content.items():
                    entry = tarfile.TarInfo(f"{key}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
            return f"{name}#{key}"

        yield write


FORMATS = {"png": png_files, "parquet": parquet_shard, "webdataset": webdataset_shard}


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
