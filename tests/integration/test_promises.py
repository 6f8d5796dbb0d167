"""What the pages name exists: tests, tools and sources, and the tests that hold a promise."""

import re

from scripts import ROOT

FOLDERS = (ROOT, ROOT / "docs", ROOT / "configs", ROOT / "datasets")
PAGES = [page for folder in FOLDERS for page in folder.glob("*.md") if page.name != "CHANGELOG.md"]
PLACEHOLDERS = {"mta_clip/x/y.py", "tools/y.py", "tests/x/test_y.py"}  # of CONTRIBUTING.md's rule for names of tests


def test_every_file_that_a_page_names_exists():
    found = {path: page.name for page in PAGES for path in named_files(page.read_text())}
    assert {"SECURITY.md", "README.md", "reliability.md"} <= set(found.values())
    assert {path: page for path, page in found.items() if not (ROOT / path).exists()} == {}


def named_files(text: str) -> set[str]:
    """Paths from the root; a test file that is named alone may lie in any folder."""
    paths = re.findall(r"(?<![\w./-])(?:(?:tests|tools|mta_clip|docs|configs)/[\w./-]+|datasets/\w+)\.[a-z]\w+", text)
    tests = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    alone = re.findall(r"(?<![\w./-])test_\w+\.py", text)
    return {*paths, *(str(tests.get(name, name)) for name in alone)} - PLACEHOLDERS


def test_every_test_that_a_page_names_exists():
    named = [(page, *test) for page in PAGES for test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text())]
    assert len(named) >= 20
    for page, file, test in named:
        assert decorators(file, test) is not None, f"{page.name}: {file} has no {test}"


def test_every_promise_names_tests_that_hold_it():
    promises = (ROOT / "docs" / "reliability.md").read_text().split("## Promises")[1]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 8
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`( ◦)?", row)
        assert named, f"no test holds the promise: {row}"
        for file, test, slow in named:
            assert ("mark.slow" in decorators(file, test)) == bool(slow), f"{file}::{test}: ◦ marks slow tests"


def decorators(file: str, test: str) -> str | None:
    """Those of a test, one per line; None if there is no such test."""
    found = re.search(rf"((?:^@.*\n)*)^def {test}\(", (ROOT / file).read_text(), re.MULTILINE)
    return found[1] if found else None
