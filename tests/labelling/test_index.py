import pyarrow.parquet
import pytest

from mta_clip.labelling.index import Count, count_rows, join_rows, write_rows

GOOD = {
    "path": "a.png",
    "label": "labels/a.png",
    "height": 4,
    "width": 6,
    "shares": [("sky", 0.75), ("road", 0.25)],
    "mean_confidence": 0.5,
    "status": "ok",
}
BAD = {"path": "b.png", "status": "failed", "error": "empty"}


def test_rows_are_joined_in_order(tmp_path):
    assert write_rows(tmp_path / "1.parquet", [BAD]) == Count(1, 1)
    assert write_rows(tmp_path / "2.parquet", [GOOD, BAD]) == count_rows(tmp_path / "2.parquet") == Count(2, 1)
    paths = [tmp_path / f"{number}.parquet" for number in (2, 1, 2)]
    assert join_rows(paths, tmp_path / "all.parquet", at_once=2) == Count(5, 3)
    table = pyarrow.parquet.read_table(tmp_path / "all.parquet").to_pylist()
    assert [row["path"] for row in table] == ["a.png", "b.png", "b.png", "a.png", "b.png"]
    assert table[0] == GOOD | {"error": None} and table[1]["shares"] is None
    assert pyarrow.parquet.ParquetFile(tmp_path / "all.parquet").num_row_groups == 2


def test_every_row_has_a_path_and_a_status(tmp_path):
    with pytest.raises(ValueError, match="status"):
        write_rows(tmp_path / "1.parquet", [{"path": "a.png"}])
    assert list(tmp_path.iterdir()) == []
