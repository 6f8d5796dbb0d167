import pytest
import torch
from scripts import load_script
from torch import nn

from mta_clip.data.datasets.shapes import CLASSES, synonym_of


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/synonym_benchmark.py")


class ByName(nn.Module):
    """Knows what names and synonyms mean: gives every pixel the name that stands for the pixel's value."""

    def set_vocabulary(self, names):
        self.vocabulary = names

    def forward(self, batched_inputs):
        labels = torch.stack([x["image"][0] for x in batched_inputs]).long()
        meant = [next(i for i, n in enumerate(CLASSES.names) if name in (n, synonym_of(n))) for name in self.vocabulary]
        return [{"sem_seg": torch.stack([(x == i).float() for i in meant])} for x in labels]


def test_a_model_that_follows_names_gets_them_back_in_any_order(tool):
    labels = torch.randint(len(CLASSES.names), (1, 6, 7))
    answers = {
        title: tool.Renamed(ByName(), names, meant)([{"image": labels}])[0]["labels"]
        for title, names, meant in tool.vocabularies(list(CLASSES.names))
    }
    *follow, control = answers
    assert len(follow) == 3 and all(torch.equal(answers[title], labels[0]) for title in follow)
    assert not (answers[control] == labels[0]).any()


def test_the_lists_are_what_their_titles_say(tool):
    lists = {title: names for title, names, _ in tool.vocabularies(list(CLASSES.names))}
    assert lists["synonyms"] != lists["synonyms, reordered"]
    assert sorted(lists["synonyms"]) == sorted(lists["synonyms, reordered"])
    assert not set(lists["training names"]) & set(lists["synonyms"])
