import numpy as np
import pytest
import torch
from saved_models import mta_clip_config, segmenter, tag_clip_config

from mta_clip.analysis.mask_queries import NO_OBJECT, MaskQueries
from mta_clip.modeling.inference import MaskScores


@pytest.fixture(scope="module")
def model():
    return segmenter(mta_clip_config())


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


def two_queries(**changes):
    masks = np.zeros((2, 4, 8), np.float32)
    masks[0, :, :4] = 1  # query 0 sees the left half, query 1 all of it
    masks[1] = 0.5
    fields = {
        "masks": masks,
        "class_probs": np.array([[0.9, 0.1], [0.2, 0.6]], np.float32),
        "linear": np.array([[0.9, 0.1, 0], [0.1, 0.2, 0.7]], np.float32),
        "text": np.array([[0.2, 0.8, 0], [0.7, 0.2, 0.1]], np.float32),
        "contexts": np.array([[0, 1, 0], [2, 0, 0]]),
        "num_contexts": 3,
        "class_names": ("sky", "road"),
        "trained_names": ("sky", "car"),
    }
    return MaskQueries(**fields | changes)


def test_shares_of_a_region():
    left = np.zeros((8, 16), bool)
    left[:, :8] = True
    first, second = two_queries().votes(left, 0)
    assert (first.query, second.query) == (0, 1)
    assert first.share == pytest.approx(0.9 / (0.9 + 0.2 * 0.5)) and first.share + second.share == pytest.approx(1)
    right = two_queries().votes(~left, 0)
    assert right[0].query == 1 and right[0].share == pytest.approx(1)


def test_classes_and_contexts_of_a_mask():
    votes = {vote.query: vote for vote in two_queries().votes(np.ones((4, 8), bool), 1)}
    assert votes[0].linear == ("sky", pytest.approx(0.9)) and votes[1].linear == (NO_OBJECT, pytest.approx(0.7))
    assert votes[0].text == ("road", pytest.approx(0.8)) and votes[0].context == 1
    assert votes[1].text == ("sky", pytest.approx(0.7)) and votes[1].context == 2
    blind = two_queries(text=None, contexts=None, num_contexts=0).votes(np.ones((4, 8), bool), 1)
    assert [(vote.text, vote.context) for vote in blind] == [(None, None)] * 2


def test_wrong_regions_and_labels():
    with pytest.raises(ValueError, match="no pixel"):
        two_queries().votes(np.zeros((4, 8), bool), 0)
    with pytest.raises(ValueError, match="2 is no label of 2"):
        two_queries().votes(np.ones((4, 8), bool), 2)


@pytest.mark.parametrize("names", [None, ["a cat; a dog", "sky"]])
def test_masks_are_those_of_the_labels(model, noise, names):
    queries = model.queries(noise, names)
    logits, probs = torch.tensor(queries.masks).logit(), torch.tensor(queries.class_probs)
    labels = MaskScores(probs, logits, (64, 96), (64, 80)).blocks()
    labels = torch.cat([scores.classes.argmax(0) for _, scores in labels]).numpy()
    assert np.array_equal(labels, model(noise, names).labels)
    assert queries.class_names == (tuple(names) if names else model.class_names)


def test_text_and_contexts_of_a_model(model, noise):
    queries = model.queries(noise)
    count = len(model.class_names)
    assert queries.linear.shape == queries.text.shape == queries.contexts.shape == (10, count + 1)
    np.testing.assert_allclose(queries.linear.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(queries.text.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(queries.linear[:, :-1], queries.class_probs, atol=1e-6)  # MODEL.MTA.CLASSIFIER linear
    assert queries.num_contexts == 2 and set(np.unique(queries.contexts)) <= {0, 1}
    other = model.queries(noise, ["a cat", "sky"])
    np.testing.assert_allclose(other.text[:, :-1], other.class_probs, atol=1e-6)  # other names are compared by text


def test_models_without_text_or_queries(noise):
    queries = segmenter(mta_clip_config(text=False)).queries(noise)
    assert queries.text is None and queries.contexts is None and queries.num_contexts == 0
    with pytest.raises(ValueError, match="TagCLIP has no mask queries"):
        segmenter(tag_clip_config()).queries(noise)
