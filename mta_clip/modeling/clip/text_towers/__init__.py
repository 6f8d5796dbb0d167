"""Text towers: one file per kind, chosen by the structure of the model that has the weights."""

from torch import nn

from ..towers import build_clip, clip_config
from .bidirectional import BidirectionalTextTower
from .causal import CausalTextTower
from .class_token import ClassTokenTextTower
from .hugging_face import PREFIX, HuggingFaceModel, HuggingFaceTextTower, hidden_size
from .tower import TEXT_TOWERS, TextTower

RANDOM = "random"  # pretrained of hf:..., which otherwise has its own weights

__all__ = [
    "TEXT_TOWERS",
    "BidirectionalTextTower",
    "CausalTextTower",
    "ClassTokenTextTower",
    "HuggingFaceTextTower",
    "TextTower",
    "adapt_text_tower",
    "build_text_tower",
    "has_own_weights",
    "text_dim",
]


def has_own_weights(name: str) -> bool:
    """Whether a tower of this name, as in `build_text_tower`, brings weights of its own, unless it is RANDOM."""
    return name.startswith(PREFIX)


def build_text_tower(
    *,
    name: str,
    pretrained: str = "",
    quick_gelu: bool = False,
    pooling: str = "",
    checkpointing: bool = False,
) -> TextTower:
    """The text tower of an open_clip architecture, or of a Hugging Face model.

    Args:
        name: as in `build_clip`, or `hf:<folder or id>`.
        pretrained: as in `build_clip`; `hf:` towers have their own weights unless it is `random`.
        quick_gelu: as in `build_clip`.
        pooling: see `HuggingFaceModel`; "" for an architecture of open_clip, which has its own.
        checkpointing: recomputes activations in the backward pass instead of storing them.

    Raises:
        ValueError: see `build_clip`, `HuggingFaceModel` and `adapt_text_tower`; or a setting that has no effect.
    """
    if has_own_weights(name):
        if pretrained not in ("", RANDOM):
            raise ValueError(
                f"MODEL.CLIP.TEXT_PRETRAINED is {pretrained!r}, but {name} has its own weights: leave it '', or set "
                f"{RANDOM!r} to start without them"
            )
        source = HuggingFaceModel(name.removeprefix(PREFIX), pooling, random_weights=pretrained == RANDOM)
        return adapt_text_tower(source, name, checkpointing)
    if pooling:
        raise ValueError(f"MODEL.CLIP.TEXT_POOLING is {pooling!r}, but {name} has its own: leave it ''")
    model = build_clip(name=name, pretrained=pretrained, quick_gelu=quick_gelu, part="TEXT")
    return adapt_text_tower(getattr(model, "text", model), name, checkpointing)


def adapt_text_tower(source: nn.Module, name: str = "", checkpointing: bool = False) -> TextTower:
    """The tower of the first registered kind that can take over `source`, such as open_clip's `TextTransformer`.

    Raises:
        ValueError: none can; the message has the reason of each. `name` stands in it.
    """
    problems = {}
    for _, kind in TEXT_TOWERS:
        problems[kind.kind] = kind.problems(source)
        if not problems[kind.kind]:
            return kind(source, checkpointing)
    reasons = "; ".join(f"not {kind}: {', '.join(found)}" for kind, found in problems.items())
    raise ValueError(f"text tower {name} ({type(source).__name__}) is not supported: {reasons}")


def text_dim(name: str) -> int:
    """Dt of a tower by name, without building it.

    Raises:
        ValueError: unknown architecture; see also `HuggingFaceModel`.
    """
    if name.startswith(PREFIX):
        return hidden_size(name.removeprefix(PREFIX))
    config = clip_config(name, "TEXT")
    unprojected = config["text_cfg"].get("proj_type") == "none"
    return config["text_cfg"]["width"] if unprojected else config["embed_dim"]
