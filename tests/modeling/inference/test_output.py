import sys

import pytest
import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess

from mta_clip.modeling.inference import MaskScores, Scores, WholeScores, make_output, output, progress
from mta_clip.modeling.ops import resizing


@pytest.mark.parametrize(
    ("size", "block_bytes"),
    [((30, 41), 8000), ((61, 90), 8000), ((61, 90), 1), ((11, 10), 1), ((11, 10), 1 << 26), ((200, 3), 8000)],
)
def test_equals_detectron2s_postprocessing(size, block_bytes, monkeypatch):
    monkeypatch.setitem(resizing._BLOCK_BYTES, "cpu", block_bytes)
    score_map = MaskScores(torch.rand(5, 4), 4 * torch.randn(5, 8, 12), (32, 48), (30, 41))
    padded = MaskScores(score_map.weights.t(), score_map.mask_logits, (32, 48)).whole().classes
    expected = sem_seg_postprocess(padded, (30, 41), *size)
    (scores,) = make_output(score_map, size, label_maps_only=False).values()
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    result = make_output(score_map, size, label_maps_only=True)
    assert result.keys() == {"labels", "label_scores"} and result["labels"].dtype == torch.int64
    assert torch.equal(result["labels"], scores.argmax(0))
    assert torch.equal(result["label_scores"], scores.amax(0))


@pytest.mark.parametrize(("label_maps_only", "block_bytes"), [(True, 1), (True, 1 << 26), (False, 100)])
def test_the_trusty_map_is_resized_too(label_maps_only, block_bytes, monkeypatch):
    monkeypatch.setitem(resizing._BLOCK_BYTES, "cpu", block_bytes)
    scores = Scores(torch.rand(3, 8, 6), torch.rand(1, 8, 6))
    result = make_output(WholeScores(scores), (16, 9), label_maps_only=label_maps_only)
    assert result.keys() == ({"labels", "label_scores"} if label_maps_only else {"sem_seg"}) | {"trusty"}
    expected = sem_seg_postprocess(scores.trusty, (8, 6), 16, 9)[0]
    torch.testing.assert_close(result["trusty"], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("delay, shown", [(0, True), (1000, False)])
def test_progress_of_slow_images(delay, shown, monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", delay)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # in files there are no bars
    make_output(WholeScores(Scores(torch.rand(2, 4, 4))), (4, 4), label_maps_only=True)
    assert ("/4 [" in (text := capsys.readouterr().err) and "row" in text) == shown


def test_half_precision_scores_leave_as_float32():
    scores = Scores(torch.rand(2, 4, 4).bfloat16(), torch.rand(1, 4, 4).bfloat16())
    result = make_output(WholeScores(scores), (4, 4), label_maps_only=False)
    assert result["sem_seg"].dtype == result["trusty"].dtype == torch.float32
    assert output.resized_rows(WholeScores(scores), resizing.RowResizer((4, 4), (4, 4)), slice(0, 2)).trusty.shape == (
        1,
        2,
        4,
    )
