import math

import pytest
import torch

from mta_clip.modeling.pixel_decoder import PositionEmbeddingSine


def test_closed_forms_of_a_square_map():
    code = PositionEmbeddingSine(num_feats=128)((16, 16))
    assert code.shape == (16, 16, 256)
    assert code.sum().item() == pytest.approx(32328.09, abs=0.05)
    assert code[0, 0, 0].item() == pytest.approx(0.3826834, abs=1e-6)
    assert code[0, 0, 1].item() == pytest.approx(0.9238796, abs=1e-6)
    assert code[0, 0, 128].item() == pytest.approx(0.3826834, abs=1e-6)
    assert code[15, 0, 0].item() == pytest.approx(0.0, abs=2e-6)  # the last row ends at a full turn


def test_closed_forms_of_an_oblong_map():
    code = PositionEmbeddingSine(num_feats=128)((4, 8))[1, 2]
    expected = [0, -1, 0.408752, -0.912646, 1, 0.707107, -0.707107, 0.891757, 1]
    torch.testing.assert_close(
        code[[0, 1, 2, 3, 127, 128, 129, 130, 255]], torch.tensor(expected), atol=2e-6, rtol=0, check_dtype=False
    )


def test_equals_the_formula_cell_by_cell():
    h, w, half = 3, 5, 6
    code = PositionEmbeddingSine(num_feats=half)((h, w))
    for y in range(h):
        for x in range(w):
            for k in range(half):
                for offset, position, length in ((0, y, h), (half, x, w)):
                    angle = (position + 1) / (length + 1e-6) * 2 * math.pi / 10000 ** (2 * (k // 2) / half)
                    expected = math.cos(angle) if k % 2 else math.sin(angle)
                    assert code[y, x, offset + k].item() == pytest.approx(expected, abs=2e-6)


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="even"):
        PositionEmbeddingSine(num_feats=7)
