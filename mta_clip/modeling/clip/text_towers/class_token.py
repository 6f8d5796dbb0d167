"""CoCa's causal text transformer with a class token, run with a shared prefix.

Shapes: K rows of text, T tokens of the longest text, P tokens of the prefix.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .causal import CausalTextTower, causal_problems
from .open_clip_parts import is_open_clips
from .tower import TEXT_TOWERS


@TEXT_TOWERS.register()
class ClassTokenTextTower(CausalTextTower):
    """A learned token at the last position reads the text. See `OpenCLIPTextTower`.

    open_clip's mask, with which CoCa's weights were trained, is shifted by one: if a text leaves positions free, the
    class token sees the first padding token, and not itself.
    """

    kind = "causal, class token"

    def __init__(self, source: nn.Module, checkpointing: bool = False):
        super().__init__(source, checkpointing)
        self.cls_emb, self.pad_id = source.cls_emb, source.pad_id
        self.context_length -= 1  # the last position is the class token's

    @staticmethod
    def problems(source: nn.Module) -> list[str]:
        """See TextTower."""
        if not is_open_clips(source):
            return ["it is not open_clip's text transformer"]
        found = {
            "it has no class token": getattr(source, "cls_emb", None) is None,
            "its class token has a mask of its own": getattr(source, "correct_cls_mask", False),
        }
        return [*causal_problems(source), *(problem for problem, holds in found.items() if holds)]

    def embed_texts(self, following: Tensor, prefix_length: int) -> tuple[Tensor, Tensor, Tensor]:
        """See CausalTextTower. After the end token come one padding token, if there is room, and the class token."""
        device, rows = self.positional_embedding.device, torch.arange(len(following))
        lengths = self.ends(following) + 1
        room = prefix_length + lengths < self.context_length
        lengths = lengths + room
        following = F.pad(following, (0, 2), value=self.pad_id)
        length = prefix_length + following.shape[1]
        positions = torch.arange(prefix_length, length, device=device).clamp(max=self.context_length)
        embedded = self.token_embedding(following.to(device, non_blocking=True))
        texts = embedded + self.positional_embedding[positions]
        places = tuple(x.to(device, non_blocking=True) for x in (rows, lengths))
        texts[places] = self.cls_emb + self.positional_embedding[-1]
        visible = torch.ones(following.shape[1], length, dtype=torch.bool)
        visible = visible.tril(prefix_length).repeat(len(rows), 1, 1)
        visible[rows, lengths, prefix_length + lengths] = ~room
        return texts, lengths + 1, visible[:, None]
