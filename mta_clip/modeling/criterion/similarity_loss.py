"""Contrastive loss between mask embeddings and the text of their classes: L_sim of MTA-CLIP.

Shapes: Z contexts per class, I supervised predictions, B images, Q mask queries, C classes, K = C + 1 (last = no
object).

With e[z, k] = exp(cosine[z, k] / temperature), y the label of a query and z* the context of class y most similar to it:
- MixNeg: -log(e[z*, y] / sum of all e). The best context is the positive; everything else is a negative, including the
  other contexts of the same class.
- SeparateNeg: like MixNeg, but the other contexts of the same class are left out of the sum.
- AllPos: -mean over z of log(e[z, y] / sum of all e). Every context of the class is a positive.
The assignment of the first two names to the two formulas is our reading of the paper and its code.

Each is a function in SIMILARITY_LOSSES, under the name that MODEL.MTA.SIMILARITY_LOSS has. A new one takes the same
arguments: logits (Z, ..., K), similarities divided by the temperature, and labels (...) int64 in 0..K-1. It returns the
loss of every query, (...).
"""

import math

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

SIMILARITY_LOSSES = Registry("SIMILARITY_LOSSES")


@SIMILARITY_LOSSES.register()
def MixNeg(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of every query, (...), at least 0; for the arguments see the module."""
    return logits.logsumexp((0, -1)) - _of_class(logits, labels).amax(0)


@SIMILARITY_LOSSES.register()
def SeparateNeg(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of every query, (...), at least 0; for the arguments see the module."""
    best = _of_class(logits, labels).amax(0)
    negatives = logits.scatter(-1, _index(logits, labels), -torch.inf).logsumexp((0, -1))
    return torch.logaddexp(negatives, best) - best


@SIMILARITY_LOSSES.register()
def AllPos(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of every query, (...), at least 0; for the arguments see the module."""
    return logits.logsumexp((0, -1)) - _of_class(logits, labels).mean(0)


def similarity_loss(logits: Tensor, labels: Tensor, kind: str) -> Tensor:
    """The loss of every query, (...).

    Args:
        logits: (Z, ..., K) floats, similarities divided by the temperature.
        labels: (...) int64 in 0..K-1.
        kind: a name in SIMILARITY_LOSSES.

    Raises:
        ValueError: unknown kind.
    """
    _check_kind(kind)
    return SIMILARITY_LOSSES.get(kind)(logits, labels)


def context_imbalance(logits: Tensor, labels: Tensor) -> Tensor:
    """How unequally contexts are used: 1 - entropy / log Z of their mean share in matched queries, (I,) in [0, 1].

    The share of a context in a query is the softmax over contexts of its similarities to the text of the query's class.
    0 if no query is matched, or Z = 1.

    Args:
        logits: (Z, I, B, Q, K) floats, similarities divided by the temperature.
        labels: (I, B, Q) int64 in 0..K-1; K - 1 = no object.
    """
    matched = labels < logits.shape[-1] - 1
    of_class = _of_class(logits, labels)
    counts = matched.sum((1, 2))
    usage = (of_class.softmax(0) * matched).sum((2, 3)) / counts.clamp(min=1)  # (Z, I)
    entropy = torch.special.entr(usage.clamp(min=torch.finfo(usage.dtype).tiny)).sum(0)
    return (1 - entropy / math.log(len(logits))) * (counts > 0) if len(logits) > 1 else 0 * usage.sum(0)


class SimilarityLoss(nn.Module):
    """`similarity_loss` of cosine similarities; its kinds and errors are the same."""

    def __init__(self, *, kind: str) -> None:
        super().__init__()
        _check_kind(kind)
        self.kind = kind

    def forward(self, similarity: Tensor, labels: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """The loss of every query, (...) float32, not weighted by class.

        Args:
            similarity: (Z, ..., K) cosines in [-1, 1].
            labels: (...) int64 in 0..K-1; K - 1 = no object.
            temperature: tau, above 0; 1 = raw cosines, as in the authors' code.
        """
        return similarity_loss(similarity.float() / temperature, labels, self.kind)


def _index(logits: Tensor, labels: Tensor) -> Tensor:
    return labels.expand(logits.shape[:-1]).unsqueeze(-1)


def _of_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (Z, ...) of each query's class."""
    return logits.gather(-1, _index(logits, labels)).squeeze(-1)


def _check_kind(kind: str) -> None:
    if kind not in SIMILARITY_LOSSES:
        known = ", ".join(name for name, _ in SIMILARITY_LOSSES)
        raise ValueError(f"unknown similarity loss {kind!r} (MODEL.MTA.SIMILARITY_LOSS): one of {known}")
