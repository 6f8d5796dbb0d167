"""What the towers made of open_clip's text transformer have in common.

Shapes: E token width, Dt width of text features.
"""

from typing import Any

from torch import Tensor, nn

from .tower import TextTower

_PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")


class OpenCLIPTextTower(TextTower):
    """Shares weights and parameter names of an open_clip `CLIP` or `TextTransformer`.

    Args:
        source: module with `token_embedding`, `positional_embedding`, `transformer`, `ln_final`, `text_projection`
            and `attn_mask`; its parameters are shared, not copied.
        checkpointing: recomputes blocks in the backward pass, so that only their inputs are stored.

    Raises:
        ValueError: `source` is not such a module, or not of this kind.
    """

    def __init__(self, source: nn.Module, checkpointing: bool = False):
        super().__init__(source, checkpointing)
        if problems := self.problems(source):
            raise ValueError(f"{type(source).__name__} is no text tower of the kind {self.kind!r}: {problems}")
        self.token_embedding = source.token_embedding
        self.positional_embedding = source.positional_embedding
        self.transformer = source.transformer
        self.ln_final = source.ln_final
        self.text_projection = projection = source.text_projection
        self.pool = pool_type(source)
        self.eos_id: Any = getattr(source, "eos_id", getattr(source, "text_eos_id", None))
        self.context_length, self.width = self.positional_embedding.shape
        if projection is None:
            self.text_dim = self.width
        else:
            self.text_dim = projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]

    def embed(self, tokens: Tensor) -> Tensor:
        """See TextTower."""
        return self.token_embedding(tokens)

    def ends(self, tokens: Tensor) -> Tensor:
        """Index (K,) of the end token of each row of (K, T): the largest id, or the first that is `eos_id`."""
        return tokens.argmax(dim=1) if self.pool == "argmax" else (tokens == self.eos_id).int().argmax(dim=1)

    def project(self, features: Tensor) -> Tensor:
        """(..., Dt) from (..., E)."""
        if self.text_projection is None:
            return features
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(features)
        return features @ self.text_projection


def is_open_clips(source: nn.Module) -> bool:
    """Whether `source` has the parts of open_clip's text transformer."""
    return all(hasattr(source, part) for part in _PARTS)


def pool_type(source: nn.Module) -> str | None:
    """Where open_clip reads a text out: `argmax`, `eos`, `last` or `first`."""
    return getattr(source, "pool_type", None) or getattr(source, "text_pool_type", None)
