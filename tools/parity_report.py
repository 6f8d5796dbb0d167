#!/usr/bin/env python
"""Runs the parity tests and writes the largest differences they saw into the table of docs/parity.md.

    python tools/parity_report.py

Runs every test file that uses `compare` of tests/support/golden_files.py; only these comparisons are in the table. If a
test fails, the table is not changed.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from tabulate import tabulate

from mta_clip.files import complete_file

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "parity.md"
START, END = "<!-- table: tools/parity_report.py -->", "<!-- end of table -->"
OFFICIAL = {"m2f": "official Mask2Former", "mta": "official MTA-CLIP", "tag": "official TagCLIP"}
HEADERS = ("component", "against", "largest difference", "at values up to", "tolerance", "repeat with")


def parity_tests() -> list[str]:
    """Test files with comparisons, relative to the repository."""
    tests = (path for path in (ROOT / "tests").glob("*/**/test_*.py") if path.parent.name != "support")
    texts = {path: path.read_text() for path in sorted(tests)}
    uses = re.compile(r"from golden_files import [^)]*?\bcompare\b")
    return [str(path.relative_to(ROOT)) for path, text in texts.items() if uses.search(text)]


def record(files: list[str]) -> list[dict]:
    """Runs pytest; returns one entry per comparison.

    Raises:
        SystemExit: a test failed, or nothing was compared.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "parity.jsonl"
        command = [sys.executable, "-m", "pytest", *files]
        status = subprocess.run(command, cwd=ROOT, env=os.environ | {"MTA_CLIP_PARITY_REPORT": str(report)}).returncode
        if status:
            sys.exit(f"pytest ended with status {status}; {PAGE} is unchanged")
        if not report.is_file():
            sys.exit(f"no test compared anything; {PAGE} is unchanged")
        return [json.loads(line) for line in report.read_text().splitlines()]


def make_table(entries: list[dict]) -> str:
    """A Markdown table with the largest difference of all comparisons per component and test file.

    Raises:
        ValueError: see `official`.
    """
    groups: dict[tuple[str, str, str], list[dict]] = defaultdict(list)
    for entry in entries:
        file, _, case = entry["test"].partition("::")
        groups[entry["label"], entry["against"] or official(case), file].append(entry)
    rows = []
    for (label, against, file), group in sorted(groups.items(), key=lambda item: (item[0][2], item[0][1], item[0][0])):
        worst = max(group, key=lambda entry: entry["largest_difference"])
        tolerance = f"{worst['atol']:.0e}" + (f" + {worst['rtol']:.0e} relative" if worst["rtol"] else "")
        difference, value = worst["largest_difference"], max(entry["largest_value"] for entry in group)
        rows.append(
            (label, against, f"{difference:.1e}" if difference else "0", f"{value:.2g}", tolerance, f"`pytest {file}`")
        )
    return tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True)


def official(case: str) -> str:
    """The implementation whose numbers a golden file holds, from the file's name in the brackets of the test.

    Raises:
        ValueError: the test names no such file.
    """
    match = re.search(r"\b(m2f|mta|tag)_", case.partition("[")[2])
    if not match:
        raise ValueError(f"{case} does not say what it compares with: give compare() the argument `against`")
    return OFFICIAL[match[1]]


def write(table: str, page: Path) -> None:
    """Replaces the table on the page."""
    before, rest = page.read_text().split(START)
    versions = f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}"
    machine = f"Measured with {versions}, on the CPU, in float32."
    with complete_file(page) as part:
        part.write_text(f"{before}{START}\n{machine}\n\n{table}\n{END}{rest.split(END)[1]}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    table = make_table(record(parity_tests()))
    write(table, PAGE)
    print(table)


if __name__ == "__main__":
    main()
