import numpy as np
import pytest
import torch
from fake_usage import FakeModel, batch

from mta_clip.analysis.contexts import THUMBNAIL, ContextUsage, analyze_contexts, cut_out, mask_owners, mean_cosines

STRIDE = 4


def test_counts_masks_and_pixels_by_class_and_context():
    usage = analyze_contexts(FakeModel(), [batch(2), batch(1)])
    assert usage.images == 3
    assert usage.masks.tolist() == [[0, 3, 0], [3, 0, 3], [0, 0, 0]]
    assert usage.pixels.tolist() == [[0, 3 * 32, 0], [3 * 32, 0, 3 * 64], [0, 0, 0]]


def test_entropy():
    usage = ContextUsage.zeros(4, 3)
    usage.masks[:3] = [[5, 0, 0], [4, 4, 4], [0, 2, 2]]
    expected = [0, 1, np.log(2) / np.log(3), np.nan]
    np.testing.assert_allclose(usage.entropy()[:4], expected, atol=1e-12)
    shares = np.array([9, 6, 6]) / 21
    assert usage.entropy()[4] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(3))


def test_mean_cosines_equal_a_loop_over_pairs():
    text = torch.randn(4, 2, 5)
    pairs = [(a, b) for a in range(4) for b in range(a)]
    expected = torch.stack([torch.cosine_similarity(text[a], text[b], dim=-1) for a, b in pairs]).mean(0)
    torch.testing.assert_close(mean_cosines(text), expected)
    assert mean_cosines(text[:1]).isnan().all()


def test_padding_does_not_count():
    # Of the canvas, 30 x 42 pixels are image: 8 x 11 cells, so three columns are left for the last query.
    usage = analyze_contexts(FakeModel(image_size=(30, 42)), [batch(size=(30, 42))])
    assert usage.pixels.tolist() == [[0, 32, 0], [32, 0, 24], [0, 0, 0]]


def test_the_largest_masks_are_the_examples():
    loader = [batch(size=(32, 64)) for _ in range(3)]
    usage = analyze_contexts(FakeModel(), loader, max_examples=2)
    assert len(usage.largest(0, 1)) == 2 and usage.largest(2, 0) == []
    usage.add(0, 1, np.ones((8, 16), bool), loader[0][0])
    usage.add(0, 1, np.eye(8, 16, dtype=bool), loader[0][0])
    assert [example.pixels for example in usage.largest(0, 1)] == [128, 32]
    assert usage.masks[0, 1] == 5


def test_no_examples_wanted():
    usage = analyze_contexts(FakeModel(), [batch()], max_examples=0)
    assert usage.largest(0, 1) == [] and usage.masks.sum() == 3


def test_models_without_text_and_empty_data_are_refused():
    with pytest.raises(ValueError, match="no text side"):
        analyze_contexts(FakeModel(similarity=False), [batch()])
    with pytest.raises(ValueError, match="no image"):
        analyze_contexts(FakeModel(), [])


def test_owner_is_the_strongest_query_of_the_pixels_own_class():
    masks = torch.tensor([[3.0, 3.0, -9.0], [1.0, 9.0, -9.0], [2.0, 2.0, 2.0]])[:, None]
    # queries 0 and 1 are class 0, query 2 leans to "no object": its class never owns a pixel
    class_logits = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 5.0, 6.0]])
    assert mask_owners(class_logits, masks).tolist() == [[0, 1, -1]]


def test_owner_equals_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(0)
    class_logits, masks = torch.randn(6, 4, generator=generator), torch.randn(6, 5, 7, generator=generator)
    owners = mask_owners(class_logits, masks)
    probs, sigmoid = class_logits.softmax(-1), masks.sigmoid()
    for y, x in np.ndindex(5, 7):
        scores = [sum(probs[q, c] * sigmoid[q, y, x] for q in range(6)) for c in range(3)]
        label = int(np.argmax(scores))
        rivals = [q for q in range(6) if probs[q].argmax() == label]
        expected = max(rivals, key=lambda q: float(probs[q, label] * sigmoid[q, y, x])) if rivals else -1
        assert owners[y, x] == expected


def test_cut_out_shows_the_mask_and_dims_the_rest():
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    region = np.zeros((10, 20), bool)
    region[2:8, 5:10] = True  # rows 8..31, columns 20..39 of the image
    crop = cut_out(image, region)
    assert crop.shape == (THUMBNAIL, THUMBNAIL, 3)
    assert (crop[THUMBNAIL // 2, THUMBNAIL // 2] == 0).all()
    assert (crop[1, THUMBNAIL // 2] > 100).all()
