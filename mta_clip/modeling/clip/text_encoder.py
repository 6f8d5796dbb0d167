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


class CLIPTextEncoder(nn.Module):
    """CLIP's text tower, frozen: no parameter has a gradient, and it is always in evaluation mode.

    Gradients still flow through it to the context vectors.

    Args:
        name, pretrained, quick_gelu: as in `build_clip`.
        checkpointing: recomputes activations in the backward pass instead of storing them.

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

    @property
    def text_dim(self) -> int:
        """Dt."""
        return self.tower.text_dim

    @property
    def width(self) -> int:
        """E, the width of token embeddings and context vectors."""
        return self.tower.width

    @property
    def context_length(self) -> int:
        """Upper limit of T + n."""
        return self.tower.context_length

    def train(self, mode: bool = True) -> "CLIPTextEncoder":
        """See nn.Module. Always sets evaluation mode."""
        return super().train(False)

    def tokenize(self, texts: Sequence[str], *, reserved: int = 0) -> Tensor:
        """Converts texts into token ids, with as many columns as the longest text needs.

        Args:
            texts: K texts.
            reserved: positions kept free for context vectors (n).

        Returns:
            (K, T) int64 on the device of the tower: start token, text, end token, zeros.

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
        """Computes features of tokenised texts.

        Args:
            tokens: (K, T) int64, from `tokenize`.
            contexts: (Z, n, E) learned vectors, inserted between the start token and the text; None = no vectors.

        Returns:
            (Z, K, Dt), not normalised; Z = 1 without contexts.

        Raises:
            ValueError: T + n is larger than the context length.
        """
        return self.tower(tokens, contexts)
