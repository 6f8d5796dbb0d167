#!/usr/bin/env python
"""Says what is known about the safety of this code and of what it is installed with: `make audit`.

    python tools/audit.py

1. Detectron2. detectron2-cdo 0.5 is somebody's upload of Detectron2 to PyPI. tools/detectron2_v0.5.sha256 has the hash
   of each Python file of the official tag v0.5 (`sha256sum` format, paths from site-packages); the installed files are
   compared with it. Other distributions of Detectron2 are not.
2. Its archive. tools/detectron2-cdo.txt pins the archive's hash; that in uv.lock, from which `make setup` installs, is
   compared with it.
3. pip-audit looks all installed packages up in PyPI's list of known vulnerabilities.
4. bandit looks for dangerous calls in this code; pyproject.toml says what it leaves out, and why.

Each line of output begins with ok, FOUND or NOT CHECKED. 3 and 4 need a package index, and uv. The exit status is 1 if
anything was found.
"""

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTION, VERSION = "detectron2-cdo", "0.5"
HASHES = ROOT / "tools" / "detectron2_v0.5.sha256"
PIN = ROOT / "tools" / "detectron2-cdo.txt"
SOURCES = ("mta_clip", "tools", "datasets", "train_net.py", "demo.py")
OK, FOUND, NOT_CHECKED = "ok", "FOUND", "NOT CHECKED"
Finding = tuple[str, str]  # one of the three, and what was seen


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


def installed_files() -> Iterator[Finding]:
    """Part 1."""
    try:
        installed = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        yield NOT_CHECKED, f"{DISTRIBUTION} is not installed: nothing to compare"
        return
    if installed.version != VERSION:
        yield FOUND, f"{DISTRIBUTION} {installed.version} is installed, expected {VERSION}: {HASHES.name} is about that"
        return
    official = read_hashes(HASHES)
    found = differences(Path(str(installed.locate_file(""))), official)
    yield from ((FOUND, line) for line in found)
    if found:
        yield FOUND, f"{len(found)} differences from Detectron2 {VERSION}: remove {DISTRIBUTION}, and do not use it"
    else:
        yield (
            OK,
            f"all {len(official)} Python files of {DISTRIBUTION} {VERSION} are those of the official tag v{VERSION}",
        )


def archive(lock: Path) -> Iterator[Finding]:
    """Part 2."""
    (pinned,) = re.findall(r"sha256:\w+", PIN.read_text())
    name = f"{DISTRIBUTION.replace('-', '_')}-{VERSION}.tar.gz"
    found = re.search(rf'{re.escape(name)}", hash = "(\S+)"', lock.read_text()) if lock.is_file() else None
    if found is None:
        yield NOT_CHECKED, f"no hash of {name} in {lock}: `make setup` writes this file; pip reads {PIN.name} instead"
    elif found.group(1) != pinned:
        yield FOUND, f"{lock} names another archive {name}: {found.group(1)}, expected {pinned}"
    else:
        yield OK, f"{lock.name} names the archive {name} with the pinned hash"


def vulnerabilities() -> Iterator[Finding]:
    """Part 3."""
    packages = sysconfig.get_path("purelib")
    done = run_tool("pip-audit", "pip-audit", "--progress-spinner", "off", "--format", "json", "--path", packages)
    try:
        listed = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        yield NOT_CHECKED, f"known vulnerabilities: pip-audit did not run ({last_line(done.stderr)})"
        return
    for package in listed:
        for known in package.get("vulns", ()):
            fixed = ", ".join(known["fix_versions"]) or "no version yet"
            yield FOUND, f"{package['name']} {package['version']}: {known['id']}, mended in {fixed}"
    looked_up = [package for package in listed if "skip_reason" not in package]
    if looked_up:
        yield OK, f"{len(looked_up)} installed packages looked up by pip-audit"
    if skipped := [package["name"] for package in listed if "skip_reason" in package]:
        shown = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        yield NOT_CHECKED, f"{len(skipped)} packages that pip-audit could not look up: {shown}"


def dangerous_calls() -> Iterator[Finding]:
    """Part 4."""
    options = ("--quiet", "--format", "json", "--configfile", "pyproject.toml", "--recursive")
    done = run_tool("bandit[toml]", "bandit", *options, *SOURCES)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        yield NOT_CHECKED, f"dangerous calls: bandit did not run ({last_line(done.stderr)})"
        return
    for issue in report["results"]:
        yield FOUND, f"{issue['filename']}:{issue['line_number']}: {issue['test_id']} {issue['issue_text']}"
    yield OK, f"{report['metrics']['_totals']['loc']} lines of code searched by bandit"


def run_tool(package: str, *command: str) -> subprocess.CompletedProcess:
    """Runs a command of a package in an environment that uv makes for it; it need not succeed."""
    full = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", package, *command]
    return subprocess.run(full, cwd=ROOT, capture_output=True, text=True)


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def main(arguments: Sequence[str] | None = None) -> int:
    findings = [*installed_files(), *archive(ROOT / "uv.lock")]
    findings += [*vulnerabilities(), *dangerous_calls()]
    for kind, text in findings:
        print(f"{kind:12}{text}")
    return int(any(kind == FOUND for kind, _ in findings))


if __name__ == "__main__":
    sys.exit(main())
