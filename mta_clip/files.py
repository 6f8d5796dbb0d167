"""Output files: complete or not there, and never two under one name."""

import os
from collections.abc import Iterator, Sequence
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


def png_names(images: Sequence[str]) -> dict[str, str]:
    """Names for one PNG file per image.

    Args:
        images: different paths.

    Returns:
        By path, "<name>.png" below the folder that all images share; with the suffix kept, "<name>.jpg.png", if
        images would share a name without it.
    """
    if not images:
        return {}
    root = os.path.commonpath([os.path.dirname(os.path.abspath(image)) for image in images])
    relative = {image: os.path.relpath(os.path.abspath(image), root) for image in images}
    short = {image: os.path.splitext(name)[0] + ".png" for image, name in relative.items()}
    if len(set(short.values())) == len(images):
        return short
    return {image: f"{name}.png" for image, name in relative.items()}
