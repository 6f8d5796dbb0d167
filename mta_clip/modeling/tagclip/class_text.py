"""Text features of class names, averaged over hand-written templates, each computed once [TagCLIP section 4].

Shapes: C class names, D joint width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..clip import CLIPTextEncoder
from ..prompt import average_templates, clean_class_names


class ClassText(nn.Module):
    """One text feature per class name, from a frozen text tower.

    A name's feature is computed when it is first asked for and kept; the features are no part of the state dict, and
    are forgotten when the module moves to another device or dtype or gets other weights.

    Args:
        text_encoder: frozen.
        templates: texts with one `{}` each, where the name goes.
    """

    def __init__(self, *, text_encoder: CLIPTextEncoder, templates: Sequence[str]):
        super().__init__()
        self.text_encoder = text_encoder
        self.templates = list(templates)
        self._features: dict[str, Tensor] = {}

    def forward(self, names: Sequence[str]) -> Tensor:
        """Features of the names, in their order: (C, D), float32, unit norm.

        Raises:
            ValueError: a name is empty or too long for the text tower, or the templates are unfit.
        """
        names = clean_class_names(names)
        new = [name for name in dict.fromkeys(names) if name not in self._features]
        if new:
            self._features.update(zip(new, self._encode(new), strict=True))
        return torch.stack([self._features[name] for name in names])

    def _encode(self, names: list[str]) -> Tensor:
        device = next(self.text_encoder.parameters()).device
        # Kept for the whole run, so neither in half precision nor as inference tensors, which training could not use.
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            return average_templates(self.text_encoder, names, self.templates)

    def _apply(self, fn: Callable, recurse: bool = True) -> "ClassText":
        self._features.clear()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # also called for a load through a parent module
        self._features.clear()
        super()._load_from_state_dict(*args, **kwargs)
