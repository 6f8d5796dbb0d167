"""Frozen CLIP text encoder with its tokenizer.

Shapes: Z contexts, K rows of text (here any list of texts), T tokens of the longest text (start and end token
included), n vectors per context, E token width, Dt width of text features.
"""

from collections.abc import Sequence

import open_clip
import torch
from torch import Tensor, nn

from .text_tower import CausalTextTower
from .towers import build_clip, clip_config

TEXTS_PER_BLOCK = 256


class CLIPTextEncoder(nn.Module):
    """CLIP's text tower, frozen: no parameter has a gradient, and it is always in evaluation mode.

    Gradients still flow through it to the context vectors.

    Args:
        name, pretrained, quick_gelu: as in `build_clip`.
        checkpointing: recomputes activations in the backward pass instead of storing them.

    Attributes:
        context_length: upper limit of T + n.
        width: E, that of token embeddings and context vectors.
        text_dim: Dt.

    Raises:
        ValueError: the architecture's text tower or tokenizer is not CLIP's; see also `build_clip`.
    """

    def __init__(self, *, name: str, pretrained: str = "", quick_gelu: bool = False, checkpointing: bool = False):
        super().__init__()
        text_config = clip_config(name)["text_cfg"]
        for key in ("hf_model_name", "hf_tokenizer_name"):
            if text_config.get(key):
                raise ValueError(
                    f"MODEL.CLIP.NAME {name}: its text tower needs {text_config[key]!r} from Hugging Face; only "
                    "CLIP's own text tower and tokenizer are supported; choose e.g. RN50, ViT-B-16 or convnext_base"
                )
        model = build_clip(name=name, pretrained=pretrained, quick_gelu=quick_gelu)
        self.tower = CausalTextTower(getattr(model, "text", model), checkpointing)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.requires_grad_(False)
        self.train(False)
        self.text_dim, self.width = self.tower.text_dim, self.tower.width
        self.context_length = self.tower.context_length

    def train(self, mode: bool = True) -> "CLIPTextEncoder":
        """See nn.Module. Always sets evaluation mode."""
        return super().train(False)

    def tokenize(self, texts: Sequence[str], *, reserved: int = 0) -> Tensor:
        """Token ids (K, T) int64 of K texts, on the device of the tower: start token, text, end token, zeros.

        Args:
            texts: K texts; T is the length of the longest.
            reserved: positions kept free for context vectors (n).

        Raises:
            ValueError: there are no texts, or one does not fit into the context length.
        """
        if not texts:
            raise ValueError("no texts to encode; at least one is needed")
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        rows = [[start, *self.tokenizer.encode(text), end] for text in texts]
        longest = max(range(len(rows)), key=lambda i: len(rows[i]))
        length = len(rows[longest])
        if length + reserved > self.context_length:
            raise ValueError(
                f"{texts[longest]!r} is too long: {length} tokens with start and end, and {reserved} context vectors, "
                f"but the text tower has {self.context_length} positions. Shorten the name or template, or lower "
                "MODEL.PROMPT.CONTEXT_LENGTH"
            )
        return torch.tensor(
            [row + [0] * (length - len(row)) for row in rows], device=self.tower.positional_embedding.device
        )

    def forward(self, tokens: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Features (Z, K, Dt) of texts from `tokenize`; see `CausalTextTower.forward`.

        Without gradients the texts are encoded in blocks, so that memory is bounded for any number of classes.
        """
        if torch.is_grad_enabled():
            return self.tower(tokens, contexts)
        return torch.cat([self.tower(block, contexts) for block in tokens.split(TEXTS_PER_BLOCK)], dim=1)
