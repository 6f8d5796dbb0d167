from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from mta_clip.modeling.inference.strips import RowResizer, join_strips, prediction, resize_strips

SIZE = (13, 17)
OUTPUT_SIZES = [(7, 9), (20, 31), (5, 40), (40, 6), (13, 17), (13, 30), (39, 17), (1, 1)]
CUTS = [(), (1,), (5, 6, 12), tuple(range(1, 13))]  # rows at which the source is cut


def make_scores():
    return torch.randn(6, *SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def resized(scores, size):
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]


def overwriting(scores, cuts):
    """Strips in one buffer that the next one overwrites."""
    buffer = torch.empty_like(scores)
    for start, stop in pairwise([0, *cuts, scores.shape[1]]):
        strip = buffer[:, : stop - start]
        strip.copy_(scores[:, start:stop])
        yield strip
        strip.fill_(torch.nan)


@pytest.mark.parametrize("label_maps_only", [False, True])
@pytest.mark.parametrize("strip_bytes", [1, 500, 1 << 26])
@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("size", OUTPUT_SIZES)
def test_equals_resizing_the_whole_map(size, cuts, strip_bytes, label_maps_only):
    scores = make_scores()
    expected = resized(scores, size)
    strips = resize_strips(overwriting(scores, cuts), SIZE, size, strip_bytes)
    maps = join_strips((prediction(strip, label_maps_only) for strip in strips), size)
    if label_maps_only:
        assert maps.keys() == {"labels"} and torch.equal(maps["labels"], expected.argmax(0))
    else:
        assert maps.keys() == {"sem_seg"}
        torch.testing.assert_close(maps["sem_seg"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", OUTPUT_SIZES)
def test_any_rows_of_the_output(size):
    scores = make_scores()
    resizer = RowResizer(SIZE, size)
    expected = resized(scores, size)
    for start in range(size[0]):
        rows = slice(start, min(start + 3, size[0]))
        source = resizer.source(rows)
        assert resizer.ready(source.stop) >= rows.stop > resizer.ready(source.stop - 1)
        torch.testing.assert_close(resizer(scores[:, source], rows), expected[:, rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", OUTPUT_SIZES)
@pytest.mark.parametrize("strip_bytes", [5000, 20000])
def test_strips_are_bounded(size, strip_bytes):
    """Both ends: what is yielded, and what it is made from."""
    scores = make_scores()
    strips = list(resize_strips([scores], SIZE, size, strip_bytes))
    assert all(strip.nbytes <= strip_bytes for strip in strips)
    resizer = RowResizer(SIZE, size)
    source = resizer.source(slice(0, min(resizer.rows_per_strip(scores, strip_bytes), size[0])))
    assert scores[:, source].nbytes <= strip_bytes + 2 * scores[:, 0].nbytes


def test_rows_come_as_soon_as_their_source_is_there():
    asked = []

    def strips():
        for row in range(4):
            asked.append(row)
            yield torch.full((1, 1, 3), float(row))

    rows = []
    for strip in resize_strips(strips(), (4, 3), (8, 3)):
        rows += [(value, asked[-1]) for value in strip[0, :, 0].tolist()]
    assert rows == [(0, 0), (0.25, 1), (0.75, 1), (1.25, 2), (1.75, 2), (2.25, 3), (2.75, 3), (3, 3)]


def test_several_maps_are_joined_by_name():
    parts = [{"a": torch.full((2, r, 3), float(r)), "b": torch.full((r, 3), r)} for r in (1, 2)]
    maps = join_strips(iter(parts), (3, 3))
    assert maps["a"].shape == (2, 3, 3) and maps["a"][1, :, 0].tolist() == [1, 2, 2]
    assert maps["b"].dtype == torch.int64 and maps["b"][:, 2].tolist() == [1, 2, 2]
    with pytest.raises(ValueError, match="4 rows have 3"):
        join_strips(iter(parts), (4, 3))
