"""Text towers against the forward pass of the model whose weights they share, with contexts among the tokens."""

import torch
from torch import Tensor, nn

from mta_clip.modeling.clip.text_towers import TextTower

FILL = {"unseen": 0, "masked": -1}


def randomise(module: nn.Module) -> nn.Module:
    """Random parameters everywhere, also where they start at zero or one, in evaluation mode."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.eval()


def pad(rows: list[list[int]], length: int, value: int) -> Tensor:
    """(K, length) int64."""
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def own_and_expected(
    tower: TextTower,
    forward,
    table: nn.Module,
    rows: list[list[int]],
    contexts: list[list[int]],
    start: int,
    padding: int,
) -> tuple[Tensor, Tensor]:
    """Features (Z, K, Dt) of the tower, and of `forward`, which takes token ids.

    Contexts are ids too: their embeddings in `table` are what the tower gets as vectors, and `forward` gets the ids
    among the tokens of a text. Thus an official forward pass is the reference also for contexts.

    Args:
        rows: K texts as ids without padding.
        contexts: Z lists of n ids; [[]] for none.
        padding: id of the padding that `forward` expects up to the full context length.
    """
    count = len(contexts[0])
    if tower.padding == "seen":
        tokens = pad(rows, tower.context_length - count, padding)
    else:
        tokens = pad(rows, max(map(len, rows)), FILL[tower.padding])
    vectors = table(torch.tensor(contexts)) if count else None
    whole = [[row[:start] + context + row[start:] for row in rows] for context in contexts]
    expected = torch.stack([forward(pad(texts, tower.context_length, padding)) for texts in whole])
    return tower(tokens, vectors, start), expected


def assert_equal(*args, **kwargs) -> None:
    """The two results of `own_and_expected` are equal up to rounding."""
    with torch.no_grad():
        own, expected = own_and_expected(*args, **kwargs)
    assert expected.std() > 0.01  # not all the same
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
