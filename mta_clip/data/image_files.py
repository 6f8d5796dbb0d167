"""Finds and reads image files; errors name the file and say what it is.

Pixels become 8 bits by the range of their type: 0..65535 of 16 bits and 0..1 of floats become 0..255. Images of 12 bits
in files of 16 are read as dark as the file says they are (the checker tells); multiply them by 16 before.
"""

import contextlib
import glob
import os
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from detectron2.data import detection_utils
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .datasets.catalog import IMAGE_SUFFIXES, warn_of_skipped

DECODING_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises
# By mode of Pillow.
_KINDS = {"1": "grey", "L": "grey", "I": "grey", "F": "grey", "LA": "grey and alpha", "P": "palette"}


class TooManyPixels(ValueError):
    """An image is larger than a limit."""


def find_images(
    inputs: Sequence[str], *, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> tuple[dict[str, str], dict[str, str]]:
    """Expands files, folders (with all subfolders) and glob patterns; pictures in folders that are skipped are logged.

    Args:
        suffixes: of the files to take from folders, in lower case.

    Returns:
        Of each image, once and in the order given, {path: its path below the input that it was found with}: below the
        folder, the folder of the file, or the part of the pattern before its first wildcard. And of each input without
        an image, {input: reason}.
    """
    images: dict[str, str] = {}
    failures = {}
    for item in inputs:
        # An existing file whose name looks like a glob pattern, such as "a[1].png", is taken as the file.
        matches = [item] if os.path.lexists(item) else sorted(glob.glob(item, recursive=True))
        found = [path for match in matches for path in images_at(Path(match), suffixes)]
        if not found:
            failures[item] = "no image in this folder" if os.path.isdir(item) else "no such file, folder or match"
        for path in found:
            images.setdefault(path, _below(path, _root(item)))
    return images, failures


def _below(path: str, root: str | Path) -> str:
    """The path below a root; of a file elsewhere, which a pattern such as "a*/../../b.png" finds, the name alone."""
    below = os.path.relpath(path, root)
    return os.path.basename(below) if os.pardir in Path(below).parts else below


def _root(item: str) -> str | Path:
    """The folder below which an input names its images."""
    if os.path.lexists(item):
        return item if os.path.isdir(item) else os.path.dirname(item) or "."
    return Path(*takewhile(lambda part: glob.escape(part) == part, Path(item).parts))


def images_at(path: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Paths of the images in a folder and its subfolders, sorted; of a file, the file itself."""
    if not path.is_dir():
        return [str(path)]
    children = sorted(path.rglob("*"))
    found = [child for child in children if child.suffix.lower() in suffixes and not child.is_dir()]
    warn_of_skipped(path, [str(child.relative_to(path)) for child in sorted({*children} - {*found})])
    return [str(child) for child in found]


def read_image(path: str | Path, *, image_format: str = "RGB") -> NDArray[np.uint8]:
    """Reads an image as (H, W, 3) uint8, "RGB" or "BGR", turned upright by its EXIF orientation; alpha is dropped.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image or is truncated; or floats are not in 0..1, or integers have 32 bits, so
            that nothing says which value is white.
    """
    with open_image(path) as image:
        return _pixels(image, image_format)


def decode_image(file: BinaryIO, *, image_format: str = "RGB", max_pixels: int | None = None) -> NDArray[np.uint8]:
    """`read_image` of an open file.

    Raises:
        TooManyPixels: see `check_pixels`; before any of them is decoded.
        OSError, SyntaxError, ValueError, Image.DecompressionBombError (DECODING_ERRORS): it cannot be read.
    """
    with _open(file) as image:
        if max_pixels is not None:
            check_pixels(image, max_pixels)
        return _pixels(image, image_format)


def check_pixels(image: Image.Image, most: int) -> None:
    """Checks the size of an image that somebody sent.

    Raises:
        TooManyPixels: it has more than `most` pixels.
    """
    pixels = image.width * image.height
    if pixels > most:
        raise TooManyPixels(
            f"This image has {pixels / 1e6:.1f} million pixels, and at most {most / 1e6:.1f} million are taken here. "
            "Send a smaller one, or start the server with a larger --max-pixels."
        )


def _pixels(image: Image.Image, image_format: str) -> NDArray[np.uint8]:
    depth = _depth(image)
    image.load()  # turns TIFF images upright itself, and only then says so
    upright = detection_utils._apply_exif_orientation(image)
    return detection_utils.convert_PIL_to_numpy(_eight_bits(upright, depth), image_format)


def image_depth(path: str | Path) -> str:
    """Bits per channel and kind of an image, such as "8-bit RGB" or "16-bit grey"; for errors see `read_image`."""
    with open_image(path) as image:
        return f"{_depth(image)} {_KINDS.get(image.mode.partition(';')[0], image.mode)}"


def _depth(image: Image.Image) -> str:
    tile = getattr(image, "tile", None)
    stored = str(tile[0][3]) if tile else ""  # before `load`; Pillow reads colours of 16 bits as 8
    if ";16" in image.mode + stored or (image.mode == "I" and image.format == "PNG"):
        return "16-bit"
    return {"1": "1-bit", "I": "32-bit", "F": "float"}.get(image.mode, "8-bit")


def _eight_bits(image: Image.Image, depth: str) -> Image.Image:
    """The image with 8 bits per channel; Pillow's own conversion of deeper ones cuts values off at 255."""
    if image.mode[0] not in "IF":
        return image
    pixels = np.asarray(image)
    if depth == "16-bit":
        return Image.fromarray(((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8))
    low, high = pixels.min(), pixels.max()
    if image.mode == "F" and 0 <= low <= high <= 1:
        return Image.fromarray(np.round(pixels * 255).astype(np.uint8))
    raise ValueError(
        f"its {depth} pixels go from {low:g} to {high:g}, and nothing says which value is white; save it with 8 or 16 "
        "bits per channel, or as floats from 0 to 1"
    )


@contextlib.contextmanager
def open_image(path: str | Path, what: str = "image") -> Iterator[Image.Image]:
    """Opens an image in any of Pillow's formats but EPS, a program that Ghostscript would run; see `named_errors`."""
    # A file, not its path: from a path Pillow maps raw TIFFs into memory, with sides swapped if they lie on one side.
    with named_errors(path, what), Path(path).open("rb") as file, _open(file) as image:
        yield image


def _open(file: BinaryIO) -> Image.Image:
    Image.preinit()  # common formats are tried first
    Image.init()
    return Image.open(file, formats=[name for name in Image.ID if name != "EPS"])


@contextlib.contextmanager
def named_errors(path: str | Path, what: str) -> Iterator[None]:
    """Checks that a file is there, and turns Pillow's errors while it is read into ValueErrors that name it.

    Raises:
        FileNotFoundError: the file does not exist, or is a link to one that does not.
        ValueError: it is a folder or empty, or see above.
    """
    path = Path(path)
    if not path.exists():
        link = f"is a link to {os.readlink(path)}, which" if path.is_symlink() else f"this {what}"
        raise FileNotFoundError(f"{path}: {link} does not exist.")
    if path.is_dir():
        raise ValueError(f"{path}: this is a folder, not a file; expected one {what}.")
    if not path.stat().st_size:
        raise ValueError(f"{path}: the {what} cannot be read (the file is empty). Replace or remove the file.")
    try:
        yield
    except DECODING_ERRORS as error:
        reason = describe_unknown(path) if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{path}: the {what} cannot be read ({reason}). Replace or remove the file.") from error


def describe_unknown(file: Path | bytes) -> str:
    """What a file that Pillow does not know seems to be."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            file = opened.read(12)
    if file[4:8] == b"ftyp":
        return "it seems to be HEIC, AVIF or a video; convert it to JPEG or PNG"
    return f"it is in no image format that is read here; it starts with {file[:12]!r}"
