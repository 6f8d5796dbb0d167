"""The table of docs/parity.md is made from what the comparisons recorded."""

import pytest
from scripts import load_script

parity_report = load_script("tools/parity_report.py")


def entry(label, difference, *, test="tests/a.py::test_a[m2f_a]", against="", value=1.0, rtol=0.0):
    return {
        **{"test": test, "label": label, "against": against, "largest_difference": difference},
        **{"largest_value": value, "atol": 1e-4, "rtol": rtol},
    }


def rows(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_each_component_has_the_largest_difference_of_all_files():
    entries = [entry("masks", 1e-6, value=30.0), entry("masks", 2e-5, test="tests/a.py::test_a[m2f_b]", rtol=1e-5)]
    entries += [
        entry("masks", 0.0, test="tests/b.py::test_b[mta_head_a-x]"),
        entry("cost", 0.5, against="transformers"),
    ]
    assert rows(parity_report.make_table(entries)) == [
        ["masks", "official Mask2Former", "2.0e-05", "30", "1e-04 + 1e-05 relative", "`pytest tests/a.py`"],
        ["cost", "transformers", "5.0e-01", "1", "1e-04", "`pytest tests/a.py`"],
        ["masks", "official MTA-CLIP", "0", "1", "1e-04", "`pytest tests/b.py`"],
    ]


def test_every_row_says_what_it_is_compared_with():
    with pytest.raises(ValueError, match="test_r50 does not say what it compares with"):
        parity_report.make_table([entry("masks", 0.1, test="tests/a.py::test_r50")])
    cells = rows(parity_report.PAGE.read_text().partition("| component")[2].partition(parity_report.END)[0])
    assert cells and all(row[1] for row in cells)


def test_only_the_table_of_the_page_changes(tmp_path):
    page = tmp_path / "parity.md"
    page.write_text(f"before\n{parity_report.START}\nold\n{parity_report.END}\nafter\n")
    for table in ("| first |", "| second |"):
        parity_report.write(table, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "| second |" in text and "first" not in text and "old" not in text and "torch" in text


def test_the_files_it_runs_are_those_that_compare():
    files = parity_report.parity_tests()
    assert "tests/integration/test_golden_criterion.py" in files
    assert "tests/checkpoint/test_readers.py" not in files
    assert "tests/support/test_golden_files.py" not in files  # compares nothing of the package
