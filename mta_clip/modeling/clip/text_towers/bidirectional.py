"""open_clip's text transformers that see a whole text at once, its padding too: SigLIP, CLIPA, MobileCLIP.

Shapes: Z contexts, n vectors per context, K rows of text, T tokens of a padded text, E token width, Dt width of text
features.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .open_clip_parts import OpenCLIPTextTower, is_open_clips, pool_type
from .tower import TEXT_TOWERS, insert_contexts


@TEXT_TOWERS.register()
class BidirectionalTextTower(OpenCLIPTextTower):
    """Without a causal mask nothing can be shared: every text runs in full, once per context. See `OpenCLIPTextTower`.

    All texts have the full context length, as in training: contexts take the place of padding.
    """

    kind = "bidirectional"
    padding = "seen"

    def __init__(self, source: nn.Module, checkpointing: bool = False):
        super().__init__(source, checkpointing)
        self.kind = f"bidirectional, {'end token' if self.pool in ('argmax', 'eos') else f'{self.pool} token'}"

    @staticmethod
    def problems(source: nn.Module) -> list[str]:
        """See TextTower."""
        if not is_open_clips(source):
            return ["it is not open_clip's text transformer"]
        found = {
            "it is causal": getattr(source, "attn_mask", None) is not None,
            "it appends a class token": getattr(source, "cls_emb", None) is not None,
            "it masks padding": getattr(source, "use_pad_mask", False),
            f"it reads out by {pool_type(source)!r}": pool_type(source) not in ("argmax", "eos", "last", "first"),
        }
        return [problem for problem, holds in found.items() if holds]

    def forward(self, tokens: Tensor, contexts: Tensor | None = None, start: int = 1) -> Tensor:
        """See TextTower."""
        tokens = tokens.to(self.positional_embedding.device, non_blocking=True)
        hidden = insert_contexts(self.token_embedding(tokens), contexts, start)
        count, texts, length = hidden.shape[:3]
        self.check_length(length)
        hidden = (hidden + self.positional_embedding[:length]).flatten(0, 1)
        for block in self.transformer.resblocks:
            if self.checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, use_reentrant=False)
            else:
                hidden = block(hidden)
        return self.project(self.ln_final(self._read_out(hidden.unflatten(0, (count, texts)), tokens)))

    def _read_out(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """(Z, K, E), one token of each text in (Z, K, n + T, E)."""
        if self.pool in ("first", "last"):
            return hidden[:, :, 0 if self.pool == "first" else -1]
        shift = hidden.shape[2] - tokens.shape[1]
        return hidden[:, torch.arange(len(tokens), device=tokens.device), self.ends(tokens) + shift]
