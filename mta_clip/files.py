"""Output files: never half-written, and never two of the same name."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def complete_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to, which becomes `path` only if the block ends without an exception.

    Missing folders are made. After an exception or a crash, a file that existed before is unchanged.

    Raises:
        OSError: the folder cannot be made, or the block has not written the file.

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
    except OSError as error:
        if error.errno and error.filename is None:  # as on a full disk
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def png_names(images: Sequence[str]) -> dict[str, str]:
    """Names for one PNG file per image, all different: {path: name}.

    A name is the path below the folder that all images share, with ".png" as its suffix; if two images would then have
    the same name, ".png" is added to the suffix instead: "<name>.jpg.png".
    """
    if not images:
        return {}
    root = os.path.commonpath([os.path.dirname(os.path.abspath(image)) for image in images])
    relative = {image: os.path.relpath(os.path.abspath(image), root) for image in images}
    short = {image: os.path.splitext(name)[0] + ".png" for image, name in relative.items()}
    if len(set(short.values())) == len(images):
        return short
    return {image: f"{name}.png" for image, name in relative.items()}
