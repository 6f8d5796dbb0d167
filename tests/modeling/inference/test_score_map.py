import pytest
import torch
import torch.nn.functional as F
from golden_files import compare, golden_params, load

from mta_clip.modeling.inference import MaskScores, Scores, WholeScores
from mta_clip.modeling.mask_classifier import classify_masks
from mta_clip.modeling.ops import resizing


def definition(class_probs, mask_logits, size):
    """Every mask upsampled, then combined."""
    masks = F.interpolate(mask_logits[None], size=size, mode="bilinear", align_corners=False)[0].sigmoid()
    return torch.einsum("qc,qhw->chw", class_probs, masks)


def make_inputs(queries=5):
    return torch.rand(queries, 4), 4 * torch.randn(queries, 8, 12)


@pytest.mark.parametrize("size", [(32, 48), (8, 12), (33, 47), (100, 13), (4, 6), (1, 1)])
@pytest.mark.parametrize("block_bytes", [1, 8000])
def test_mask_scores_equal_the_definition(size, block_bytes, monkeypatch):
    """Row by row, and in blocks, of which the smaller sizes need one."""
    monkeypatch.setitem(resizing._BLOCK_BYTES, "cpu", block_bytes)
    class_probs, mask_logits = make_inputs()
    scores = MaskScores(class_probs, mask_logits, size).whole().classes
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, definition(class_probs, mask_logits, size), atol=1e-5, rtol=0)


def test_rows_are_those_of_the_whole():
    class_probs, mask_logits = make_inputs()
    score_map = MaskScores(class_probs, mask_logits, (32, 48), (30, 41))
    assert score_map.size == (30, 41)
    expected = definition(class_probs, mask_logits, (32, 48))[:, 7:19, :41]
    torch.testing.assert_close(score_map.rows(7, 19).classes, expected, atol=1e-5, rtol=0)


def test_padding_does_not_reach_the_scores():
    class_probs, mask_logits = make_inputs()
    changed = mask_logits.clone()
    changed[..., 10:] = torch.nan  # column 10 is first read by upsampled column 38
    one, other = (MaskScores(class_probs, logits, (32, 48), (32, 38)).whole() for logits in (mask_logits, changed))
    assert torch.equal(one.classes, other.classes)


def test_one_pixel_by_hand():
    class_probs = torch.tensor([[2.0, 0, 0], [0, 1, 3]]).softmax(-1)[..., :-1]
    scores = MaskScores(class_probs, torch.tensor([0.0, 2.0]).view(2, 1, 1), (1, 1)).whole().classes
    assert scores.flatten().tolist() == pytest.approx([0.4305, 0.1538], abs=1e-4)


def test_bfloat16_masks_stay_close():
    class_probs, mask_logits = make_inputs(queries=40)
    expected = definition(class_probs, mask_logits, (32, 48))
    score_map = MaskScores(class_probs, mask_logits.bfloat16(), (32, 48))
    assert score_map.rows(0, 2).classes.dtype == torch.bfloat16
    assert ((score_map.whole().classes - expected).abs() / expected.amax()).max() < 0.02


def test_an_image_larger_than_its_padding_is_refused():
    with pytest.raises(ValueError, match=r"\(33, 48\)"):
        MaskScores(*make_inputs(), (32, 48), (33, 48))


def test_whole_scores_and_what_comes_with_them():
    scores = Scores(torch.rand(3, 6, 5), torch.rand(1, 6, 5))
    score_map = WholeScores(scores)
    assert score_map.size == (6, 5)
    part = score_map.rows(2, 4)
    assert torch.equal(part.classes, scores.classes[:, 2:4]) and torch.equal(part.trusty, scores.trusty[:, 2:4])
    copy = score_map.whole()
    assert torch.equal(copy.trusty, scores.trusty) and torch.equal(copy.classes, scores.classes)
    copy.classes.zero_()
    assert scores.classes.any(), "the model's scores must be left alone"


def test_map_takes_each_tensor_with_its_partners():
    one, other = (Scores(torch.full((2, 1, 1), value), torch.full((1, 1, 1), 10 * value)) for value in (1.0, 2.0))
    total = one.map(torch.add, other)
    assert total.classes.flatten().tolist() == [3, 3] and total.trusty.item() == 30
    assert Scores(one.classes).map(torch.neg).trusty is None


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("m2f"))
def test_mask2former_semantic_map(path):
    config, arrays = load(path)
    class_probs, size = classify_masks(arrays["pred_logits"]), tuple(config["image_size"])
    scores = [MaskScores(*one, size).whole().classes for one in zip(class_probs, arrays["pred_masks"], strict=True)]
    compare("semantic map from stored predictions", torch.stack(scores), arrays["semantic_map"], atol=1e-5)
