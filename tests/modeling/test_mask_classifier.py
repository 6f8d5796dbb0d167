import pytest
import torch
from torch import nn

from mta_clip.config import get_cfg
from mta_clip.modeling.criterion import SimilarityLoss
from mta_clip.modeling.mask_classifier import MaskClassifier, classify_masks
from mta_clip.modeling.outputs import LayerPrediction
from mta_clip.modeling.text import PromptLearner


def test_linear_drops_no_object_after_the_softmax():
    logits = torch.tensor([[[2.0, 0.0, 0.0]]])
    assert torch.allclose(classify_masks(logits), logits.softmax(-1)[..., :2])


def test_text_sums_over_contexts():
    similarity = torch.rand(3, 2, 5, 4) * 2 - 1
    probabilities = classify_masks(torch.zeros(2, 5, 9), similarity, classifier="text", temperature=0.1)
    prompts = (similarity / 0.1).exp()
    expected = prompts.sum(0) / prompts.sum((0, -1)).unsqueeze(-1)
    assert torch.allclose(probabilities, expected[..., :-1], atol=1e-6)


def test_text_agrees_with_the_denominator_of_the_loss():
    """With one context, -log of the probability is L_sim."""
    similarity, labels = torch.rand(1, 2, 5, 4), torch.randint(3, (2, 5))
    probabilities = classify_masks(torch.zeros(2, 5, 4), similarity, classifier="text", temperature=0.5)
    losses = SimilarityLoss(kind="MixNeg")(similarity, labels, temperature=0.5)
    assert torch.allclose(-probabilities.gather(-1, labels[..., None])[..., 0].log(), losses, atol=1e-5)


def test_ensemble_lies_between_its_ends():
    logits, similarity = torch.randn(2, 5, 4), torch.rand(3, 2, 5, 4)
    ends = [classify_masks(logits, similarity, classifier=name) for name in ("linear", "text")]
    for weight, end in zip((0.0, 1.0), ends, strict=True):
        ensemble = classify_masks(logits, similarity, classifier="ensemble", ensemble_weight=weight)
        assert torch.allclose(ensemble, end, atol=1e-6)
    half = classify_masks(logits, similarity, classifier="ensemble")
    log_ratio = (half[..., 0] / half[..., 1]).log()
    expected = sum((end[..., 0] / end[..., 1]).log() for end in ends) / 2
    assert torch.allclose(log_ratio, expected, atol=1e-4)


def test_bad_settings_are_refused():
    logits, similarity = torch.zeros(1, 2, 4), torch.zeros(3, 1, 2, 6)
    with pytest.raises(ValueError, match="'clip'"):
        classify_masks(logits, classifier="clip")
    with pytest.raises(ValueError, match="predicts no similarity"):
        classify_masks(logits, classifier="text")
    with pytest.raises(ValueError, match="4 rows, the similarity 6"):
        classify_masks(logits, similarity, classifier="ensemble")
    with pytest.raises(ValueError, match="'clip'"):
        MaskClassifier(classifier="clip")
    with pytest.raises(ValueError, match="got 0 and"):
        MaskClassifier(text_temperature=0)


class Text(PromptLearner):
    """Stored features of any names."""

    def __init__(self, features, temperature=1.0):
        super().__init__(text_encoder=nn.Linear(1, 1), class_names=["a"], temperature=temperature)
        self.features = features

    def encode_names(self, names):
        return self.features


def prediction_of_three_masks():
    return LayerPrediction(torch.randn(1, 3, 5), torch.randn(1, 3, 4), torch.rand(2, 1, 3, 5), torch.randn(1, 3, 8))


def test_settings_come_from_the_config():
    cfg = get_cfg()
    cfg.MODEL.MTA.CLASSIFIER, cfg.MODEL.MTA.TEXT_TEMPERATURE, cfg.MODEL.MTA.ENSEMBLE_WEIGHT = "ensemble", 0.05, 0.25
    classifier = MaskClassifier(cfg)
    assert (classifier.classifier, classifier.text_temperature, classifier.ensemble_weight) == ("ensemble", 0.05, 0.25)
    assert classifier(prediction_of_three_masks()).shape == (1, 3, 4)


@pytest.mark.parametrize("trained, used", [(1.0, 0.05), (0.2, 0.2)])
def test_the_temperature_is_the_trained_one_if_there_was_one(trained, used):
    """A loss on raw cosines leaves nothing to follow."""
    prediction = prediction_of_three_masks()
    classifier = MaskClassifier(classifier="text", text_temperature=0.05)
    expected = classify_masks(prediction.class_logits, prediction.similarity, classifier="text", temperature=used)
    assert torch.equal(classifier(prediction, Text(torch.randn(2, 5, 8), temperature=trained)), expected)


def test_a_vocabulary_is_classified_by_text_and_follows_its_names():
    prediction, features = prediction_of_three_masks(), torch.randn(2, 8, 8)
    text = Text(features, temperature=0.1)
    text.set_vocabulary(list("abcdefg"))
    probabilities = MaskClassifier()(prediction, text)
    assert probabilities.shape == (1, 3, 7)
    order = torch.tensor([3, 1, 0, 2, 4, 6, 5, 7])
    text.features = features[:, order]
    text.set_vocabulary(list("dbacegf"))
    torch.testing.assert_close(MaskClassifier()(prediction, text), probabilities[..., order[:-1]], atol=1e-6, rtol=0)


class TestEnsembleWithOtherNames:
    def test_names_in_order_give_what_no_vocabulary_gives(self):
        prediction, text = prediction_of_three_masks(), Text(torch.randn(2, 5, 8))
        text.class_names = list("abcd")
        prediction.similarity = prediction.similarity_to(text.features)
        classifier = MaskClassifier(classifier="ensemble")
        own = classifier(prediction, text)
        text.set_vocabulary(list("abcd"))
        torch.testing.assert_close(classifier(prediction, text), own)

    def test_rows_follow_names_and_unknown_or_held_out_ones_count_by_text_alone(self):
        prediction, text = prediction_of_three_masks(), Text(torch.randn(2, 5, 8), temperature=0.1)
        text.class_names = list("abcd")
        text.set_vocabulary(["c", "x", "A", "d"])
        probabilities = MaskClassifier(classifier="ensemble", ensemble_weight=0.25, held_out=["d"])(prediction, text)
        by_text = classify_masks(
            prediction.class_logits, prediction.similarity_to(text.features), classifier="text", temperature=0.1
        )
        linear = classify_masks(prediction.class_logits)
        joined = by_text.clone()
        for row, own in ((0, 2), (2, 0)):
            joined[..., row] = linear[..., own] ** 0.75 * by_text[..., row] ** 0.25
        shares = probabilities / probabilities.sum(-1, keepdim=True)
        torch.testing.assert_close(shares, joined / joined.sum(-1, keepdim=True))


def test_a_name_counts_by_the_best_of_its_synonyms():
    prediction, text = prediction_of_three_masks(), Text(torch.randn(2, 4, 8), temperature=0.1)
    text.set_vocabulary(["a", "b;c"])
    cosines = prediction.similarity_to(text.features)
    best = torch.stack([cosines[..., 0], cosines[..., 1:3].amax(-1), cosines[..., 3]], dim=-1)
    expected = classify_masks(prediction.class_logits, best, classifier="text", temperature=0.1)
    assert torch.equal(MaskClassifier()(prediction, text), expected)
