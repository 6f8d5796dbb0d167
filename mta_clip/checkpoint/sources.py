"""The released formats that can be converted: where their weights lie, and what each parameter is called here.

A rename rule returns our name, or `Dropped` with the reason, or raises KeyError for a name it does not know.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .names import mask2former_to_ours, mta_clip_head_to_ours
from .tagclip_names import tagclip_to_ours

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Dropped:
    """A parameter that is left out, and why."""

    reason: str


@dataclass(frozen=True)
class Source:
    """A released format.

    Args:
        rename: our name of an official name, see above.
        keys: under which of these keys of the file the weights lie; none of them: the file is the weights.
        finish: a last step on the renamed weights, e.g. a sum that we store as one parameter.
        is_clip: the result is a state dict for MODEL.CLIP.PRETRAINED, not one for MODEL.WEIGHTS.
    """

    rename: Callable[[str], str | Dropped]
    keys: tuple[str, ...] = ("state_dict", "model")
    finish: Callable[[Weights], Weights] = dict
    is_clip: bool = False


_UNUSED = Dropped("stored by the official code, never used by it")
_POOL = Dropped("CLIP's pooling and projection: the feature maps do not need them")
_OTHER_NECK = Dropped("DenseCLIP's own neck, decoder and heads, which this project does not have")


def mask2former(name: str) -> str | Dropped:
    """Mask2Former on Detectron2, of any version, with a Detectron2 backbone."""
    part, _, rest = name.partition(".")
    if part == "backbone" or name == "criterion.empty_weight":
        return name
    if name in ("pixel_mean", "pixel_std"):
        return Dropped("image normalisation, which the config gives")
    if part != "sem_seg_head":
        raise KeyError(name)
    if not rest.startswith(("predictor.", "pixel_decoder.")):  # before version 2 of its head
        rest = f"pixel_decoder.{rest}"
    return _below("sem_seg_head", mask2former_to_ours(rest))


def mta_clip(name: str) -> str | Dropped:
    """The authors' MTA-CLIP on mmsegmentation, with CLIP's ResNets."""
    part, _, rest = name.partition(".")
    if part == "decode_head":
        return _below("sem_seg_head", mta_clip_head_to_ours(rest))
    if name == "gamma" or part in ("auxiliary_head", "identity_head", "context_decoder"):
        return _UNUSED
    return _towers_and_contexts(name)


def denseclip(name: str) -> str | Dropped:
    """DenseCLIP: its CLIP towers and contexts, to start MTA-CLIP from."""
    if name.partition(".")[0] in ("context_decoder", "neck", "decode_head", "auxiliary_head", "identity_head", "gamma"):
        return _OTHER_NECK
    if name.startswith(("backbone.fpn1.", "backbone.fpn2.", "backbone.fpn3.", "backbone.fpn4.")):
        return _OTHER_NECK
    return _towers_and_contexts(name)


def openai_clip(name: str) -> str | Dropped:
    """OpenAI's CLIP, whose names open_clip kept."""
    if name in ("input_resolution", "context_length", "vocab_size"):
        return Dropped("a setting, not a weight; the architecture's name gives it")
    if name.endswith("attn_mask"):
        return Dropped("the causal mask, a constant")
    if not name.startswith(_CLIP_NAMES):
        raise KeyError(name)
    return name


def tagclip(name: str) -> str | Dropped:
    """The authors' TagCLIP on mmsegmentation."""
    ours = tagclip_to_ours(name)
    return Dropped("built by the official code but never run, or a constant") if ours is None else ours


def fold_class_embedding(weights: Weights) -> Weights:
    """DenseCLIP adds the class embedding to its token twice; here the second time is part of the position table."""
    visual = "backbone.tower.visual."
    if f"{visual}class_embedding" not in weights:
        return weights
    table = weights[f"{visual}positional_embedding"].clone()
    table[0] += weights[f"{visual}class_embedding"]
    return weights | {f"{visual}positional_embedding": table}


def _towers_and_contexts(name: str) -> str | Dropped:
    part, _, rest = name.partition(".")
    if name == "contexts":
        return "prompt_learner.contexts"
    if part == "text_encoder" and rest.startswith(_TEXT_NAMES):
        return f"prompt_learner.text_encoder.tower.{rest}"
    if part == "backbone" and (rest == "proj" or rest.startswith(("attnpool.", "ln_post."))):
        return _POOL
    if part == "backbone" and rest.startswith(_IMAGE_NAMES):
        return f"backbone.tower.visual.{rest}"
    raise KeyError(name)


def _below(module: str, name: str | None) -> str | Dropped:
    return _UNUSED if name is None else f"{module}.{name}"


_TEXT_NAMES = ("token_embedding.", "positional_embedding", "transformer.resblocks.", "ln_final.", "text_projection")
_IMAGE_NAMES = (
    *("conv1.", "conv2.", "conv3.", "bn1.", "bn2.", "bn3.", "layer1.", "layer2.", "layer3.", "layer4."),
    *("class_embedding", "positional_embedding", "ln_pre.", "transformer.resblocks."),
)
_CLIP_NAMES = ("visual.", "logit_scale", *_TEXT_NAMES)

SOURCES = {
    "mask2former": Source(mask2former, keys=("model",)),
    "mta-clip": Source(mta_clip),
    "denseclip": Source(denseclip, finish=fold_class_embedding),
    "openai-clip": Source(openai_clip, is_clip=True),
    "tagclip": Source(tagclip),
}


def as_tensor(value: object) -> Tensor:
    """A float32 tensor of a tensor or array (integers and booleans stay what they are).

    Raises:
        TypeError: something else.
    """
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
