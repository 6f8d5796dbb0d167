#!/usr/bin/env python
"""Compares the installed detectron2-cdo 0.5 with the official Detectron2 0.5, file by file.

    python tools/audit.py

detectron2-cdo is somebody's upload of Detectron2 to PyPI. tools/detectron2_v0.5.sha256 has the hash of each Python file
of the official tag v0.5 (`sha256sum` format, paths from site-packages). If a file differs, is missing, or is there
without being official, the command names it and its exit status is 1. Other distributions of Detectron2 are not
compared.
"""

import hashlib
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

DISTRIBUTION, VERSION = "detectron2-cdo", "0.5"
HASHES = Path(__file__).with_name("detectron2_v0.5.sha256")


def read_hashes(file: Path) -> dict[str, str]:
    """{path: sha256} of a file that sha256sum wrote."""
    pairs = (line.split(maxsplit=1) for line in file.read_text().splitlines())
    return {path: digest for digest, path in pairs}


def differences(folder: Path, official: dict[str, str]) -> list[str]:
    """How the Python files below folder/detectron2 differ from the official ones; [] if they do not."""
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "detectron2").rglob("*.py"))
    }
    return [
        *(f"missing: {path}" for path in official if path not in found),
        *(f"differs: {path}" for path in official if path in found and found[path] != official[path]),
        *(f"not official: {path}" for path in found if path not in official),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        installed = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        print(f"{DISTRIBUTION} is not installed: nothing to compare.")
        return 0
    if installed.version != VERSION:
        print(f"{DISTRIBUTION} {installed.version} is installed, expected {VERSION}: {HASHES.name} is about that one.")
        return 1
    official = read_hashes(HASHES)
    found = differences(Path(str(installed.locate_file(""))), official)
    for line in found:
        print(line)
    if found:
        print(f"{len(found)} differences from Detectron2 {VERSION}: remove {DISTRIBUTION}, and do not use it.")
    else:
        print(f"All {len(official)} Python files of {DISTRIBUTION} {VERSION} are those of the official tag v{VERSION}.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
