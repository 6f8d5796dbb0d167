"""The images of a job, one by one, and the blocks they are cut into."""

import hashlib
import posixpath
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from ..data.datasets.catalog import IMAGE_SUFFIXES

LIST_SUFFIX = ".txt"
_WILDCARD = re.compile(r"[*?[]")


class Input(NamedTuple):
    """An image: its path or URL, and its path below the input, which names its label map."""

    path: str
    name: str


@dataclass(frozen=True)
class Block:
    """Images that are labelled together. The name depends on their paths alone."""

    name: str
    inputs: tuple[Input, ...]


def utf8(path: str) -> str:
    """A path as text that is valid anywhere: bytes that are no UTF-8 become \\xNN."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def filesystem_of(path: str, **options: Any) -> tuple[AbstractFileSystem, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
        ImportError: the protocol needs a package that is not installed; the message names it.
        ValueError: fsspec knows no such protocol.
    """
    if "://" not in path:  # fsspec would take "::" in the name of a file for a chain of URLs
        files = LocalFileSystem()
        return files, files._strip_protocol(path)
    return url_to_fs(path, **options)


def find_inputs(source: str) -> Iterator[Input]:
    """Yields the images of a folder, a glob pattern or a list, always in the same order.

    Args:
        source: folder (with its subfolders, sorted by path), pattern (`**` stands for any subfolders), or text file
            with one path or URL per line, relative to its own folder; local, or a URL that fsspec knows (s3://...).

    Raises:
        FileNotFoundError: there is no such folder, file or match.
        ImportError, ValueError: see `filesystem_of`.
    """
    files, path = filesystem_of(source, **({"use_listings_cache": False} if "://" in source else {}))
    if path.endswith(LIST_SUFFIX) and files.isfile(path):
        found = _of_list(files, path)
    elif files.isdir(path):
        found = _below(files, path)
    elif _WILDCARD.search(path):
        found = _matches(files, path)
    else:
        raise FileNotFoundError(f"{source}: no such folder or list ({LIST_SUFFIX}); expected one, or a glob pattern")
    first = next(found, None)
    if first is None:
        raise FileNotFoundError(f"{source}: there is no image (in folders, files with {', '.join(IMAGE_SUFFIXES)})")
    yield first
    yield from found


def cut(inputs: Iterable[Input], size: int) -> Iterator[Block]:
    """Cuts inputs into blocks of `size` on average, and at most four times that.

    Where a block ends depends on its last path, not on how many came before. So images that are added later change the
    blocks they fall into, and no others.
    """
    block: list[Input] = []
    for item in inputs:
        block.append(item)
        if len(block) == 4 * size or zlib.crc32(item.path.encode("utf-8", "surrogateescape")) % size == 0:
            yield _block(block)
            block = []
    if block:
        yield _block(block)


def _block(inputs: list[Input]) -> Block:
    paths = "\0".join(item.path for item in inputs)
    return Block(hashlib.sha256(paths.encode("utf-8", "surrogateescape")).hexdigest()[:20], tuple(inputs))


def _below(files: AbstractFileSystem, root: str, maxdepth: int | None = None) -> Iterator[Input]:
    for path in _walk(files, root, maxdepth):
        if path.lower().endswith(IMAGE_SUFFIXES):
            yield _input(files, path, root)


def _matches(files: AbstractFileSystem, pattern: str) -> Iterator[Input]:
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if _WILDCARD.search(part))
    root, matches = "/".join(parts[:first]) or "/", re.compile(glob_translate(pattern)).match
    for path in _walk(files, root, None if "**" in pattern else len(parts) - first):
        if matches(path):
            yield _input(files, path, root)


def _walk(files: AbstractFileSystem, root: str, maxdepth: int | None) -> Iterator[str]:
    for folder, folders, names in files.walk(root, maxdepth=maxdepth, on_error="raise"):
        folders.sort()
        yield from (posixpath.join(folder, name) for name in sorted(names))


def _input(files: AbstractFileSystem, path: str, root: str) -> Input:
    local = isinstance(files, LocalFileSystem)
    return Input(path if local else files.unstrip_protocol(path), posixpath.relpath(path, root))


def _of_list(files: AbstractFileSystem, path: str) -> Iterator[Input]:
    """Lines of a list; each path once, which takes about 100 bytes of memory per line."""
    folder = posixpath.dirname(path)
    seen: set[bytes] = set()
    with files.open(path, "r", encoding="utf-8", errors="surrogateescape") as lines:
        for line in filter(None, map(str.strip, lines)):
            if "://" in line:
                item = Input(line, line.partition("://")[2].lstrip("/"))
            else:
                full = posixpath.normpath(posixpath.join(folder, line))
                item = _input(files, full, "/")
            digest = hashlib.blake2b(item.path.encode("utf-8", "surrogateescape"), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                yield item
