"""The tree of tests mirrors the tree of sources."""

import ast
import re
import subprocess
from pathlib import Path

from scripts import ROOT

TESTS = ROOT / "tests"
# Registries hold a name each, and what is registered has tests.
WITHOUT_TESTS = {
    "mta_clip/modeling/pixel_decoder/registry.py",
    "mta_clip/modeling/text/registry.py",
    "mta_clip/modeling/transformer_decoder/registry.py",
}
# About several sources at once, about the tests themselves, and about the tree.
FREE = ("integration", "support")
ABOUT_THE_TREE = {"test_layout.py"}
MOST_LINES = 400


def sources() -> list[str]:
    """Python files with code of their own, from the root; those of datasets/ are run by tests of their datasets."""
    found = [*ROOT.glob("*.py"), *(ROOT / "tools").glob("*.py"), *(ROOT / "mta_clip").rglob("*.py")]
    return [path.relative_to(ROOT).as_posix() for path in found if path.name != "__init__.py"]


def namesake(source: str) -> str:
    """mta_clip/data/build.py -> data/test_build.py, tools/benchmark.py -> tools/test_benchmark.py."""
    path = Path(source.removeprefix("mta_clip/"))
    return path.with_name(f"test_{path.name}").as_posix()


def files_of_tests() -> set[str]:
    return {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}


def test_every_source_has_tests_of_its_name():
    wanted = {namesake(source) for source in sources() if source not in WITHOUT_TESTS}
    assert sorted(wanted - files_of_tests()) == []
    assert set(sources()) >= WITHOUT_TESTS, "the list of exceptions names a file that is gone"


def test_every_test_file_has_a_source_of_its_name():
    mirrored = {file for file in files_of_tests() if not file.startswith(FREE)} - ABOUT_THE_TREE
    assert sorted(mirrored - {namesake(source) for source in sources()}) == []


def test_no_test_file_is_long():
    assert [path.name for path in TESTS.rglob("*.py") if len(path.read_text().splitlines()) > MOST_LINES] == []


def test_scripts_import_the_package_before_detectron2():
    wrong = []
    for path in [*ROOT.glob("*.py"), *(ROOT / "tools").glob("*.py"), *(ROOT / "datasets").glob("*.py")]:
        names = []
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names.append(node.module)
        packages = [name.partition(".")[0] for name in names]
        if "detectron2" in packages and "mta_clip" not in packages[: packages.index("detectron2")]:
            wrong.append(path.name)
    assert wrong == [], "without mta_clip's stand-ins detectron2 cannot be imported"


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):(?!=)", makefile, flags=re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(phony.split()) == targets == set(re.findall(r"^make ([\w-]+) +\S", listed, flags=re.MULTILINE))
