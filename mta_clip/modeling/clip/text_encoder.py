"""Frozen text encoder: a text tower with its tokenizer.

Shapes: Z contexts, K rows of text (here any list of texts), T tokens of the longest text (start and end token
included), n vectors per context, E token width, Dt width of text features.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from .text_tokenizer import build_tokenizer
from .text_towers import RANDOM, build_text_tower, has_own_weights

logger = logging.getLogger(__name__)

TEXTS_PER_BLOCK = 256


def text_tower_settings(cfg: CfgNode) -> dict[str, Any]:
    """The arguments `name`, `pretrained` and `quick_gelu` of `build_text_tower` from a config.

    MODEL.CLIP.NAME's tower unless MODEL.CLIP.TEXT_NAME names another. QUICK_GELU belongs to NAME, as for image towers.
    """
    clip = cfg.MODEL.CLIP
    if clip.TEXT_NAME in ("", clip.NAME):
        return {"name": clip.NAME, "pretrained": clip.TEXT_PRETRAINED or clip.PRETRAINED, "quick_gelu": clip.QUICK_GELU}
    return {"name": clip.TEXT_NAME, "pretrained": clip.TEXT_PRETRAINED, "quick_gelu": False}


def knows_language(cfg: CfgNode) -> bool:
    """Whether the text tower of a config was pretrained on language: neither random nor one of our tiny ones."""
    tower = text_tower_settings(cfg)
    if tower["pretrained"] == RANDOM or tower["name"].startswith("mta-tiny"):
        return False
    return bool(tower["pretrained"]) or has_own_weights(tower["name"])


class CLIPTextEncoder(nn.Module):
    """A text tower, frozen: no parameter has a gradient, and it is always in evaluation mode.

    Gradients still flow through it to the context vectors.

    Args:
        name: as in `build_text_tower`.
        pretrained: as in `build_text_tower`.
        quick_gelu: as in `build_text_tower`.
        pooling: as in `build_text_tower`.
        checkpointing: recomputes activations in the backward pass instead of storing them.

    Attributes:
        context_length: upper limit of T + n.
        width: E, that of token embeddings and context vectors.
        text_dim: Dt.

    Raises:
        ValueError: see `build_text_tower` and `build_tokenizer`.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        pretrained: str = "",
        quick_gelu: bool = False,
        pooling: str = "",
        checkpointing: bool = False,
    ):
        super().__init__()
        self.tokenizer = build_tokenizer(name)
        self.tower = build_text_tower(
            name=name, pretrained=pretrained, quick_gelu=quick_gelu, pooling=pooling, checkpointing=checkpointing
        )
        self.requires_grad_(False)
        self.train(False)
        self.text_dim, self.width = self.tower.text_dim, self.tower.width
        self.context_length = self.tower.context_length

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from a config; logs a warning if only the other tower has weights."""
        clip, settings = cfg.MODEL.CLIP, text_tower_settings(cfg)
        if clip.PRETRAINED and not settings["pretrained"] and not has_own_weights(settings["name"]):
            logger.warning(
                f"MODEL.CLIP.TEXT_PRETRAINED is '', so the frozen text tower {clip.TEXT_NAME} has random weights; this "
                "is right only if MODEL.WEIGHTS has them"
            )
        return {**settings, "pooling": clip.TEXT_POOLING, "checkpointing": clip.TEXT_CHECKPOINTING}

    def train(self, mode: bool = True) -> "CLIPTextEncoder":
        """See nn.Module. Always sets evaluation mode."""
        return super().train(False)

    def tokenize(self, texts: Sequence[str], *, reserved: int = 0) -> Tensor:
        """Token ids (K, T) int64 of K texts, on the CPU: start token, text, end token, padding.

        Args:
            texts: K texts; T is the length of the longest, or all that `reserved` leaves if the tower sees padding.
            reserved: positions kept free for context vectors (n).

        Raises:
            ValueError: there are no texts, or one does not fit into the context length.
        """
        if not texts:
            raise ValueError("no texts to encode; at least one is needed")
        rows = self.tokenizer(texts)
        longest = max(range(len(rows)), key=lambda i: len(rows[i]))
        length = len(rows[longest])
        if length + reserved > self.context_length:
            raise ValueError(
                f"{texts[longest]!r} is too long: {length} tokens with start and end, and {reserved} context vectors, "
                f"but the text tower has {self.context_length} positions. Shorten the name or template, or lower "
                "MODEL.PROMPT.CONTEXT_LENGTH"
            )
        if self.tower.padding == "seen":
            length = self.context_length - reserved
        pad = {"unseen": 0, "seen": self.tokenizer.pad_id, "masked": -1}[self.tower.padding]
        rows = [row + [pad] * (length - len(row)) for row in rows]
        return torch.tensor(rows)

    def embed_words(self, text: str) -> Tensor:
        """Embeddings (T, E) of the tokens of a text, without start and end: what context vectors can start as."""
        row, start = self.tokenizer([text])[0], self.tokenizer.start
        ends = len(self.tokenizer(["a"])[0]) - start - 1
        words = torch.tensor(row[start : len(row) - ends], device=next(self.tower.parameters()).device)
        return self.tower.embed(words.long())

    def forward(self, tokens: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Features (Z, K, Dt) of texts from `tokenize`; see `TextTower.forward`.

        Without gradients the texts are encoded in blocks, so that memory is bounded for any number of classes.
        """
        start = self.tokenizer.start
        if torch.is_grad_enabled():
            return self.tower(tokens, contexts, start)
        return torch.cat([self.tower(block, contexts, start) for block in tokens.split(TEXTS_PER_BLOCK)], dim=1)
