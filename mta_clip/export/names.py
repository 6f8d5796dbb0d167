"""Class names as numbers, which open graphs take as input.

Shapes: K names, Z contexts per name (1 in TagCLIP), Dt text width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..files import complete_file
from ..modeling import TagCLIP
from ..modeling.text import PromptLearner


def require_text(model: nn.Module) -> PromptLearner:
    """The prompt learner of a model that can be asked for any names.

    Raises:
        ValueError: the model knows only the classes of its training.
    """
    prompts = model.class_text if isinstance(model, TagCLIP) else getattr(model, "prompt_learner", None)
    if prompts is None or not model.takes_names:
        raise ValueError(
            "an open vocabulary needs a model that compares masks with text; this one has none (MODEL.PROMPT.NAME is "
            "empty or MODEL.MTA.SIMILARITY_WEIGHT is 0). Export it with its own classes: --vocabulary closed"
        )
    return prompts


@torch.no_grad()
def text_features(model: nn.Module, names: Sequence[str]) -> Tensor:
    """Text features (K, Z, Dt) float32 of any names, as an open graph takes them.

    Raises:
        ValueError: the model has no text, or a name is empty or too long for its text encoder; with TagCLIP also if a
            name occurs twice.
    """
    prompts = require_text(model)
    if isinstance(model, TagCLIP):
        return prompts.ensemble(names)[:, None].clone()
    return prompts.encode(names)[:, :-1].transpose(0, 1).clone()


@torch.no_grad()
def no_object_features(model: nn.Module) -> Tensor:
    """Text features (1, Z, Dt) of "no object", which every list of names is compared with."""
    prompts = require_text(model)
    return prompts.encode(prompts.class_names)[:, -1:].transpose(0, 1).clone()


def save_names(model: nn.Module, names: Sequence[str], path: str | Path) -> None:
    """Writes names and what an open graph takes as input for them, as a NumPy archive (.npz).

    It holds `names` (K,) str, `text` (K, Z, Dt) float32 and, for TagCLIP, `seen` (K,) bool. Rows of several files of
    one model may be combined.

    Raises:
        ValueError: see `text_features`.
        OSError: the file cannot be written.
    """
    arrays: dict[str, Any] = {"names": np.array(list(names)), "text": text_features(model, names).cpu().numpy()}
    if isinstance(model, TagCLIP):
        arrays["seen"] = model.seen_mask(names).cpu().numpy()
    with complete_file(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)
