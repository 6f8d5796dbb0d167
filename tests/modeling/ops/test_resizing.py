import pytest
import torch
from torch.nn import functional as F

from mta_clip.modeling.ops import resizing
from mta_clip.modeling.ops.resizing import RowResizer, row_blocks

SIZE = (13, 17)
OUTPUT_SIZES = [(7, 9), (20, 31), (5, 40), (40, 6), (13, 17), (13, 30), (39, 17), (1, 1)]


def make_maps():
    return torch.randn(6, *SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("size", OUTPUT_SIZES)
def test_any_rows_of_the_output(size):
    maps = make_maps()
    expected = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
    resizer = RowResizer(SIZE, size)
    for start in range(size[0]):
        rows = slice(start, min(start + 3, size[0]))
        resized = resizer(maps[:, resizer.source(rows)], rows)
        torch.testing.assert_close(resized, expected[:, rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "block_bytes"),
    [*((size, 500) for size in OUTPUT_SIZES), *((size, limit) for size in OUTPUT_SIZES[:2] for limit in (1, 1 << 26))],
)
def test_blocks_cover_the_output_and_are_bounded(size, block_bytes, monkeypatch):
    monkeypatch.setitem(resizing._BLOCK_BYTES, "cpu", block_bytes)
    resizer = RowResizer(SIZE, size)
    blocks = list(resizer.blocks(6, torch.device("cpu")))
    assert [row for rows in blocks for row in range(rows.start, rows.stop)] == list(range(size[0]))
    for rows in blocks:
        source = resizer.source(rows)
        height = rows.stop - rows.start
        assert height == 1 or 4 * 6 * height * size[1] <= block_bytes
        # what an output row is made from: its share of the source, and a row above and below
        assert height == 1 or 4 * 6 * (source.stop - source.start - 2) * SIZE[1] <= block_bytes


def test_row_blocks(monkeypatch):
    monkeypatch.setitem(resizing._BLOCK_BYTES, "cpu", 1000)
    assert list(row_blocks(5, 500, torch.device("cpu"))) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(row_blocks(3, 1 << 40, torch.device("cpu"))) == [slice(i, i + 1) for i in range(3)]
    assert list(row_blocks(5, 500, torch.device("meta"))) == [slice(0, 5)]
