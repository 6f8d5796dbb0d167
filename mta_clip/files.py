"""Files that are either complete or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def complete_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name to write to; the file gets its own name only once the block has ended well.

    Missing folders are made. After an exception, or a crash, a file that was there before is still the old one.

    Example:
        with complete_file("out/metrics.json") as part:
            part.write_text(text)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
