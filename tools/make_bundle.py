#!/usr/bin/env python
"""Collects wheels for a machine without a package index: `make bundle PYTHON_VERSION=3.12`.

    python tools/make_bundle.py --python 3.12 --output output/bundle \\
        --given torch==2.11.* torchvision==0.26.* numpy==2.5.* transformers==5.17.*

On that machine, whose Python has the given packages (and whatever they need):

    pip install --no-index --find-links bundle/1 --find-links bundle/2 --find-links bundle/3 \\
        mta-clip detectron2-cdo pytest

The folder gets mta-clip and pytest with all they need that does not come with the given packages. OpenCV and SciPy
alone have 80 MiB, so the wheels are dealt out to numbered folders of at most --limit MiB, for machines to which files
are carried in parts. Detectron2 is built here, without its compiled part, and asks only for what pyproject.toml says it
needs.
"""

import argparse
import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
# Of NumPy the newest for that Python: 3.11 has no 2.5.
GIVEN = ("torch==2.11.*", "torchvision==0.26.*", "numpy==2.*", "transformers==5.17.*")
DETECTRON2 = "detectron2-cdo"
TESTS = "pytest"  # for gpu_campaign.py
FLAGS = ("--use-pep517", "--no-build-isolation", "-C--global-option=build_py", "-C--build-option=--skip-build")
# Without compiled parts of their own; PyPI has no wheels of them.
BUILT_HERE = ("antlr4-python3-runtime", "fvcore", "iopath")
# The smallest OpenCV for NumPy 2: newer ones have up to 59 MiB.
CHOSEN = ("opencv-python-headless==4.10.0.84",)
GLIBC = range(28, 4, -1)  # 2.28: RHEL 8, Debian 10, Ubuntu 18.10, and later
MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    if args.output.exists():
        raise SystemExit(f"{args.output} exists: delete it, or choose another --output")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = project["project"]["dependencies"]
    needed += [extra for extra in project["dependency-groups"]["dev"] if name_of(extra) == TESTS]
    detectron2 = detectron2_metadata(project)
    given = resolve(args.given, (), args.python)
    everything = resolve([*given, *needed, *detectron2["requires-dist"], *CHOSEN], given, args.python)
    missing = [pin for pin in everything if name_of(pin) not in {name_of(pin) for pin in given}]
    print(f"with the given packages: {len(given)}; missing beside them: {' '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder)
        download([pin for pin in missing if name_of(pin) not in BUILT_HERE], wheels, args.python)
        for pin in missing:
            if name_of(pin) in BUILT_HERE:
                build(pin, wheels)
        build(str(ROOT), wheels)
        built = build(f"{DETECTRON2}=={detectron2['version']}", wheels, FLAGS)
        make_pure(built, detectron2["requires-dist"])
        parts = deal_out(sorted(wheels.glob("*.whl")), round(args.limit * MIB))
        for number, part in enumerate(parts, start=1):
            target = args.output / str(number)
            target.mkdir(parents=True)
            for wheel in part:
                shutil.copy(wheel, target)
            print(f"{target}: {sum(wheel.stat().st_size for wheel in part) / MIB:.1f} MiB, {len(part)} wheels")
    links = " ".join(f"--find-links {args.output / str(number)}" for number in range(1, len(parts) + 1))
    print(f"pip install --no-index {links} mta-clip {DETECTRON2} {TESTS}")


def detectron2_metadata(project: Mapping) -> Mapping:
    """Version of Detectron2 and what it needs, as uv is told in pyproject.toml."""
    (metadata,) = [entry for entry in project["tool"]["uv"]["dependency-metadata"] if entry["name"] == DETECTRON2]
    return metadata


def resolve(requirements: Iterable[str], constraints: Iterable[str], python: str) -> list[str]:
    """What a Python on Linux needs for these requirements, as NAME==VERSION.

    Raises:
        CalledProcessError: they contradict each other, or nothing fits this Python; uv has said what.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted, limits = Path(folder, "in.txt"), Path(folder, "constraints.txt")
        wanted.write_text("\n".join(requirements))
        limits.write_text("\n".join(constraints))
        command = [uv(), "pip", "compile", str(wanted), "--constraint", str(limits), "--python-version", python]
        command += ["--python-platform", f"x86_64-manylinux_2_{GLIBC[0]}", "--no-header", "--no-annotate", "--quiet"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout
    return [line.split(";")[0].strip() for line in output.splitlines() if "==" in line]


def uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if not found:
        raise SystemExit("make_bundle.py needs uv: pip install uv")
    return found


def name_of(pin: str) -> str:
    """The normalised name in NAME==VERSION."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>!~\[; ]", pin)[0]).lower()


def download(pins: Sequence[str], folder: Path, python: str) -> None:
    """Fetches wheels for that Python on Linux.

    Raises:
        CalledProcessError: one has no such wheel; pip has said which.
    """
    platforms = [*(f"manylinux_2_{minor}_x86_64" for minor in GLIBC), "manylinux2014_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(folder)]
    command += [part for platform in platforms for part in ("--platform", platform)]
    subprocess.run([*command, *pins], check=True)


def build(source: str, folder: Path, flags: Sequence[str] = ()) -> Path:
    """Builds the wheel of a requirement or a folder; returns it.

    Raises:
        CalledProcessError: the build failed; pip has said why.
    """
    before = set(folder.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), *flags, source]
    subprocess.run(command, check=True)
    (wheel,) = set(folder.glob("*.whl")) - before
    return wheel


def make_pure(wheel: Path, requirements: Sequence[str]) -> Path:
    """Marks a wheel without compiled files as fit for any Python 3, and replaces what it requires.

    Returns:
        Its new path; the old file is gone.

    Raises:
        ValueError: the wheel has compiled files.
    """
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    if compiled := [name for name in files if name.endswith((".so", ".pyd"))]:
        raise ValueError(f"{wheel.name} has compiled files: {', '.join(compiled)}")
    (info,) = {name.split("/")[0] for name in files if name.split("/")[0].endswith(".dist-info")}
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: mta-clip\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    header, blank, text = files[f"{info}/METADATA"].decode().partition("\n\n")
    lines = [line for line in header.splitlines() if not line.startswith(("Requires-Dist:", "Provides-Extra:"))]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
    files[f"{info}/METADATA"] = ("\n".join(lines) + blank + text).encode()
    files.pop(f"{info}/RECORD")
    files[f"{info}/RECORD"] = record(files, f"{info}/RECORD")
    pure = wheel.with_name("-".join([*wheel.name.split("-")[:2], "py3-none-any.whl"]))
    wheel.unlink()
    with zipfile.ZipFile(pure, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return pure


def record(files: Mapping[str, bytes], own_name: str) -> bytes:
    """The RECORD of a wheel: path, hash and size of each file."""
    rows = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join([*rows, f"{own_name},,", ""]).encode()


def deal_out(wheels: Sequence[Path], limit: int) -> list[list[Path]]:
    """As few folders as large wheels first gives, none of more than `limit` bytes.

    Raises:
        ValueError: a wheel is larger than that.
    """
    parts: list[list[Path]] = []
    for wheel in sorted(wheels, key=lambda wheel: -wheel.stat().st_size):
        size = wheel.stat().st_size
        if size > limit:
            raise ValueError(f"{wheel.name} has {size / MIB:.1f} MiB, the limit is {limit / MIB:.1f}: raise --limit")
        for part in parts:
            if sum(other.stat().st_size for other in part) + size <= limit:
                part.append(wheel)
                break
        else:
            parts.append([wheel])
    return parts


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12", help="version of that machine's Python (3.12)")
    parser.add_argument("--given", nargs="+", default=list(GIVEN), help="what it has: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/bundle"))
    parser.add_argument("--limit", type=float, default=55, metavar="MIB", help="of each folder (55)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
