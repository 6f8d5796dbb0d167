import pytest
import torch
from torch.nn import functional as F

from mta_clip.modeling.text import ContextPromptLearner, TemplatePrompt
from mta_clip.modeling.text.synonyms import all_synonyms, best_of_synonyms, mean_direction, mean_of_synonyms

NAMES = ["sky", "person;man;woman", "car;auto"]
TEXTS, OWNERS = ["sky", "person", "man", "woman", "car", "auto"], [0, 1, 1, 1, 2, 2]


def test_synonyms_know_their_names():
    assert all_synonyms(NAMES) == (TEXTS, OWNERS)


def test_the_mean_direction_weights_texts_of_any_length_alike():
    long, short = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(mean_direction([long, short]), torch.tensor([[5.0, 5.0]]) / 2**0.5)
    torch.testing.assert_close(mean_direction([long]), long)


def test_mean_of_synonyms():
    features = torch.randn(2, 7, 8)
    rows = mean_of_synonyms(features, OWNERS)
    assert rows.shape == (2, 4, 8)
    assert torch.equal(rows[:, 0], features[:, 0]) and torch.equal(rows[:, 3], features[:, 6])
    expected = F.normalize(F.normalize(features[:, 1:4], dim=-1).mean(1), dim=-1)
    torch.testing.assert_close(F.normalize(rows[:, 1], dim=-1), expected)
    assert mean_of_synonyms(features, range(6)) is features


@pytest.mark.parametrize("dim", [1, -1])
def test_best_of_synonyms(dim):
    scores = torch.randn(2, 6, 5).movedim(1, dim)
    best = best_of_synonyms(scores, OWNERS, dim).movedim(dim, 0)
    groups = scores.movedim(dim, 0).split([1, 3, 2])
    assert torch.equal(best, torch.stack([group.amax(0) for group in groups]))
    assert best_of_synonyms(scores, range(6), dim) is scores


def learners(text_encoder, **options):
    common = {"text_encoder": text_encoder, "class_names": NAMES, **options}
    return ContextPromptLearner(**common), TemplatePrompt(templates=["a {}.", "the {}."], **common)


def test_in_training_a_name_is_the_mean_of_its_synonyms(text_encoder):
    for learner in learners(text_encoder):
        each = learner.encode(TEXTS)
        torch.testing.assert_close(learner.train()(), mean_of_synonyms(each, OWNERS))
        torch.testing.assert_close(learner.eval()(), mean_of_synonyms(each, OWNERS))


def test_at_inference_the_key_decides(text_encoder):
    assert learners(text_encoder)[0].texts_of(NAMES) == (TEXTS, OWNERS)
    assert learners(text_encoder, synonyms="mean")[0].texts_of(NAMES) == (NAMES, [0, 1, 2])
    with pytest.raises(ValueError, match=r"MODEL\.PROMPT\.SYNONYMS is 'all', expected one of max, mean"):
        learners(text_encoder, synonyms="all")


def test_an_empty_synonym_is_refused(text_encoder):
    with pytest.raises(ValueError, match="'cat;' is empty, or has an empty synonym"):
        learners(text_encoder)[0].set_vocabulary(["cat;"])
