"""What every text tower offers, and the registry of their kinds.

Shapes: Z contexts, n vectors per context, K rows of text, T tokens of the longest text, E token width, Dt width of text
features.
"""

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

# A kind is a TextTower. It registers itself, and its file is imported in this package's __init__.py.
TEXT_TOWERS = Registry("TEXT_TOWERS")


class TextTower(nn.Module):
    """Token ids, and vectors among them, to text features. A kind is built from the module whose weights it shares.

    Attributes:
        kind: what it does, in words, for messages and lists.
        padding: what a text shorter than others ends with. "unseen": anything, since nothing reads it; "seen": the
            tokenizer's padding up to `context_length`, as in training; "masked": -1, which nothing attends to.
        context_length: upper limit of T + n.
        width, text_dim: E, Dt.
    """

    kind: str
    padding: str
    context_length: int
    width: int
    text_dim: int

    def __init__(self, source: nn.Module, checkpointing: bool = False):
        super().__init__()
        self.checkpointing = checkpointing  # recomputes activations in the backward pass instead of storing them

    @staticmethod
    def problems(source: nn.Module) -> list[str]:
        """Why this kind cannot take over `source`; [] if it can."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, contexts: Tensor | None = None, start: int = 1) -> Tensor:
        """Text features (Z, K, Dt), not normalised.

        Args:
            tokens: (K, T) int64 on the CPU, each row: start tokens, text, end token, padding as in `padding`.
            contexts: (Z, n, E) vectors in the space of token embeddings, inserted between the start tokens and the
                text; None = no vectors and Z = 1.
            start: number of start tokens, 0 or 1, which all rows have in common.

        Raises:
            ValueError: T + n is larger than `context_length`.
        """
        raise NotImplementedError

    def check_length(self, length: int) -> None:
        """Raises ValueError if T + n = `length` is larger than `context_length`."""
        if length > self.context_length:
            raise ValueError(
                f"{length} tokens, but the text tower has only {self.context_length} positions; shorten the texts"
            )


def insert_contexts(embedded: Tensor, contexts: Tensor | None, start: int) -> Tensor:
    """Embedded texts (K, T, E) with each context (Z, n, E) after the first `start` tokens: (Z, K, n + T, E)."""
    if contexts is None:
        return embedded[None]
    count, texts = len(contexts), embedded.expand(len(contexts), -1, -1, -1)
    vectors = contexts.to(embedded.dtype)[:, None].expand(count, len(embedded), -1, -1)
    return torch.cat([texts[:, :, :start], vectors, texts[:, :, start:]], dim=2)
