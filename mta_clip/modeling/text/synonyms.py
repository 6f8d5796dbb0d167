"""What several texts of one name amount to: their mean direction, or the best of their scores.

Shapes: Z contexts, K' rows of text for names ("no object" last), S synonyms of all these names, Dt text width.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.synonyms import split_synonyms

REDUCTIONS = ("max", "mean")


def all_synonyms(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """The S synonyms of all names, in order, and for each the index of its name."""
    pairs = [(synonym, index) for index, name in enumerate(names) for synonym in split_synonyms(name)]
    return [synonym for synonym, _ in pairs], [index for _, index in pairs]


def mean_direction(features: Iterable[Tensor]) -> Tensor:
    """Prompt ensemble of text features (..., Dt) of one shape: normalised, averaged, normalised (CLIP).

    The result is as long as the features are on average, so that it can be used wherever one of them could.
    """
    total: Any
    total, length, count = 0.0, 0.0, 0
    for part in features:
        norm = part.norm(dim=-1, keepdim=True)
        total, length, count = total + part / norm, length + norm, count + 1
    return F.normalize(total, dim=-1) * (length / count)


def mean_of_synonyms(features: Tensor, owners: Sequence[int]) -> Tensor:
    """Rows of names, (Z, K', Dt), from rows of their synonyms and of "no object", (Z, S + 1, Dt).

    Args:
        owners: for each of the S synonyms, the index of its name.
    """
    if len(set(owners)) == len(owners):
        return features
    groups: dict[int, list[Tensor]] = {}
    for row, owner in zip(features.unbind(1), [*owners, owners[-1] + 1], strict=True):
        groups.setdefault(owner, []).append(row)
    return torch.stack([rows[0] if len(rows) == 1 else mean_direction(rows) for rows in groups.values()], dim=1)


def best_of_synonyms(scores: Tensor, owners: Sequence[int], dim: int) -> Tensor:
    """The highest score among the synonyms of each name.

    Args:
        scores: along `dim`, one entry per synonym.
        owners: for each entry, the index of its name, from 0 on.

    Returns:
        As `scores`, with one entry per name along `dim`.
    """
    if len(set(owners)) == len(owners):
        return scores
    scores = scores.movedim(dim, -1)
    index = torch.tensor(owners).to(scores.device, non_blocking=True).expand(scores.shape)
    best = scores.new_empty((*scores.shape[:-1], owners[-1] + 1))
    return best.scatter_reduce(-1, index, scores, "amax", include_self=False).movedim(-1, dim)
