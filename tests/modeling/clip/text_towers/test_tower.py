"""Where contexts go, and how a kind of tower is added."""

import pytest
import torch
from torch import nn

from mta_clip.modeling.clip.text_towers import TEXT_TOWERS, TextTower, adapt_text_tower
from mta_clip.modeling.clip.text_towers.tower import insert_contexts


@pytest.mark.parametrize("start", [0, 1])
def test_contexts_follow_the_start_tokens(start):
    texts, contexts = torch.arange(6.0).view(2, 3, 1), torch.tensor([[[10.0], [11]], [[20], [21]]])
    inserted = insert_contexts(texts, contexts, start)[..., 0].tolist()
    rows = [[0, 1, 2], [3, 4, 5]]
    assert inserted == [[row[:start] + context + row[start:] for row in rows] for context in ([10, 11], [20, 21])]
    assert torch.equal(insert_contexts(texts, None, start), texts[None])


class Source(nn.Linear):
    """What no known kind takes."""


class LinearTower(TextTower):
    kind, padding = "linear", "unseen"

    @staticmethod
    def problems(source):
        return [] if isinstance(source, Source) else ["it is not linear"]


def test_a_new_kind_is_registered_and_found(monkeypatch):
    with pytest.raises(
        ValueError, match=r"tower X \(Source\) is not supported: .*not causal, end token: it is not open"
    ):
        adapt_text_tower(Source(2, 2), "X")
    monkeypatch.setattr(TEXT_TOWERS, "_obj_map", dict(TEXT_TOWERS._obj_map))
    TEXT_TOWERS.register(LinearTower)
    assert isinstance(adapt_text_tower(Source(2, 2)), LinearTower)
