"""The tests that docs/reliability.md names exist."""

import re

from scripts import ROOT


def test_every_promise_names_tests_that_exist():
    promises = (ROOT / "docs" / "reliability.md").read_text().split("## Promises")[1]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 8
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`( ◦)?", row)
        assert named, f"no test holds the promise: {row}"
        for file, test, slow in named:
            source = (ROOT / file).read_text()
            found = re.search(rf"((?:^@.*\n)*)^def {test}\(", source, re.MULTILINE)
            assert found, f"{file} has no {test}"
            assert ("mark.slow" in found[1]) == bool(slow), f"{file}::{test}: ◦ marks slow tests"
