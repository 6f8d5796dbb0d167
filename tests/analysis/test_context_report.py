import csv

import pytest
from fake_usage import NAMES, FakeModel, batch
from PIL import Image

from mta_clip.analysis.context_report import draw_usage, format_usage, save_examples, write_usage
from mta_clip.analysis.contexts import analyze_contexts


@pytest.fixture
def usage():
    return analyze_contexts(FakeModel(), [batch(2)])


def test_table(usage):
    lines = format_usage(usage, NAMES, [0.5, 0.25, 0.3]).splitlines()
    assert lines[0].split()[-2:] == ["entropy", "cosine"]
    assert lines[-2].split() == ["road/way", "4", "50.0", "0.0", "50.0", "0.63", "0.250"]
    assert lines[-1].split() == ["all", "classes", "6", "33.3", "33.3", "33.3", "1.00", "0.350"]
    assert not any(line.startswith("cat") for line in lines)


def test_files(usage, tmp_path):
    write_usage(tmp_path / "out" / "contexts.csv", usage, NAMES)
    draw_usage(tmp_path / "out" / "contexts.png", usage, NAMES)
    save_examples(tmp_path / "out" / "examples", usage, NAMES)
    rows = list(csv.DictReader((tmp_path / "out" / "contexts.csv").open()))
    assert len(rows) == 9
    assert rows[3] == {"class": "road/way", "context": "0", "masks": "2", "pixels": "64"}
    assert sorted(path.name for path in (tmp_path / "out" / "examples").iterdir()) == ["0_sky.png", "1_road_way.png"]
    with Image.open(tmp_path / "out" / "contexts.png") as picture:
        assert picture.width > 500


def test_without_masks_nothing_is_divided_by_zero(usage, tmp_path):
    usage.masks[:] = 0
    last = format_usage(usage, NAMES, [0, 0, 0]).splitlines()[-1].split()
    assert last == ["all", "classes", "0", "0.0", "0.0", "0.0", "-", "0.000"]
    draw_usage(tmp_path / "contexts.png", usage, NAMES)
    save_examples(tmp_path / "examples", usage, NAMES)
    assert (tmp_path / "contexts.png").is_file() and not (tmp_path / "examples").exists()


def test_a_row_of_an_example_sheet_per_context(usage, tmp_path):
    save_examples(tmp_path, usage, NAMES)
    with Image.open(tmp_path / "1_road_way.png") as sheet:
        assert sheet.height > 3 * sheet.width // 20 and len(sheet.getcolors(1 << 20)) > 10
