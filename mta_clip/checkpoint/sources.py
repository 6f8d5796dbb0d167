"""The released formats that can be converted: where a file has its weights, and what each parameter is called here.

A table maps official names to ours. In both, `#` stands for a number and `*` for any text; the first row that matches
decides. A row with a `Dropped` leaves the parameter out. Names in a head's table are relative to the head.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Names = dict[str, str]


class Dropped(str):
    """Why a parameter is left out."""


_UNUSED = Dropped("stored by the official code, never used by it")
_POOL = Dropped("CLIP's pooling and projection: the feature maps do not need them")
_OTHER_NECK = Dropped("DenseCLIP's own neck, decoder and heads, which this project does not have")
_NOT_RUN = Dropped("built by the official code but never run, or a constant")
_NORMALISATION = Dropped("image normalisation, which the config gives")
_SETTING = Dropped("a setting, not a weight; the architecture's name gives it")
_MASK = Dropped("the causal mask, a constant")
_INDEX = Dropped("positions of pairs in a window, a constant")


def _moved(names: Names | str, official: str = "", ours: str = "") -> Names:
    """The rows with a prefix on each side; of a string, one row per word, with the same name on both sides."""
    rows = {name: name for name in names.split()} if isinstance(names, str) else names
    return {official + old: new if isinstance(new, Dropped) else ours + new for old, new in rows.items()}


# Mask2Former on Detectron2.
_MASK2FORMER_PIXEL_DECODER: Names = {
    "input_proj.#.0.*": "input_proj.#.conv.*",
    "input_proj.#.1.*": "input_proj.#.norm.*",
    "transformer.level_embed": "level_embed",
    "transformer.encoder.layers.#.*": "layers.#.*",
    "adapter_1.norm.*": "lateral_convs.0.norm.*",
    "adapter_1.*": "lateral_convs.0.conv.*",
    "layer_1.norm.*": "output_convs.0.norm.*",
    "layer_1.*": "output_convs.0.conv.*",
    "mask_features.*": "mask_features.*",
}
_MASK2FORMER_PREDICTOR: Names = {
    "transformer_cross_attention_layers.#.multihead_attn.*": "layers.#.cross_attn.*",
    "transformer_cross_attention_layers.#.norm.*": "layers.#.cross_attn_norm.*",
    "transformer_self_attention_layers.#.self_attn.*": "layers.#.self_attn.*",
    "transformer_self_attention_layers.#.norm.*": "layers.#.self_attn_norm.*",
    "transformer_ffn_layers.#.norm.*": "layers.#.ffn_norm.*",
    "transformer_ffn_layers.#.*": "layers.#.*",
    "static_query.*": "query_feat.*",  # before version 2
    **_moved("decoder_norm.* query_feat.* query_embed.* level_embed.* class_embed.* mask_embed.* input_proj.*"),
}
MASK2FORMER_HEAD: Names = {
    **_moved(_MASK2FORMER_PIXEL_DECODER, "pixel_decoder.", "pixel_decoder."),
    **_moved(_MASK2FORMER_PREDICTOR, "predictor.", "transformer_decoder."),
}
_SWIN: Names = {
    "layers.*.relative_position_index": _INDEX,
    # officially the end of a stage, in timm the start of the next
    **{f"layers.{i}.downsample.*": f"tower.visual.layers.{i + 1}.downsample.*" for i in range(3)},
    **_moved("patch_embed.* layers.#.blocks.*", "", "tower.visual."),
    "norm#.*": "tower.norms.#.*",
}
MASK2FORMER: Names = {
    **_moved(_SWIN, "backbone.", "backbone."),
    **_moved("stem.* res2.* res3.* res4.* res5.*", "backbone.", "backbone."),
    **_moved("criterion.empty_weight"),
    **dict.fromkeys(("pixel_mean", "pixel_std"), _NORMALISATION),
    **_moved(MASK2FORMER_HEAD, "sem_seg_head.", "sem_seg_head."),
    **_moved(_MASK2FORMER_PIXEL_DECODER, "sem_seg_head.", "sem_seg_head.pixel_decoder."),  # before version 2
}

# Classifiers of torchvision and timm, whose names are the same, as a ResNet of Detectron2.
TORCHVISION_RESNET: Names = {
    "*.num_batches_tracked": Dropped("a counter that a norm needs only in training without momentum"),
    "fc.*": Dropped("the classifier of ImageNet"),
    "conv1.*": "backbone.stem.conv1.*",
    "bn1.*": "backbone.stem.conv1.norm.*",
    **{
        f"layer{layer}.#.{theirs}.*": f"backbone.res{layer + 1}.#.{ours}.*"
        for layer in range(1, 5)
        for theirs, ours in {
            "conv#": "conv#",
            "bn#": "conv#.norm",
            "downsample.0": "shortcut",
            "downsample.1": "shortcut.norm",
        }.items()
    },
}

# The authors' MTA-CLIP on mmsegmentation; its head is written in mmdet's style.
_MTA_CLIP_PIXEL_DECODER: Names = {
    "input_convs.#.conv.*": "input_proj.#.conv.*",
    "input_convs.#.gn.*": "input_proj.#.norm.*",
    "level_encoding.weight": "level_embed",
    "encoder.layers.#.self_attn.*": "layers.#.self_attn.*",
    "encoder.layers.#.ffn.layers.0.0.*": "layers.#.linear1.*",
    "encoder.layers.#.ffn.layers.1.*": "layers.#.linear2.*",
    "encoder.layers.#.norms.0.*": "layers.#.norm1.*",
    "encoder.layers.#.norms.1.*": "layers.#.norm2.*",
    "lateral_convs.#.conv.*": "lateral_convs.#.conv.*",
    "lateral_convs.#.gn.*": "lateral_convs.#.norm.*",
    "output_convs.#.conv.*": "output_convs.#.conv.*",
    "output_convs.#.gn.*": "output_convs.#.norm.*",
    "mask_feature.*": "mask_features.*",
}
_MTA_CLIP_DECODER: Names = {
    "transformer_decoder.layers.#.cross_attn.attn.*": "layers.#.cross_attn.*",
    "transformer_decoder.layers.#.self_attn.attn.*": "layers.#.self_attn.*",
    "transformer_decoder.layers.#.norms.0.*": "layers.#.cross_attn_norm.*",
    "transformer_decoder.layers.#.norms.1.*": "layers.#.self_attn_norm.*",
    "transformer_decoder.layers.#.norms.2.*": "layers.#.ffn_norm.*",
    "transformer_decoder.layers.#.ffn.layers.0.0.*": "layers.#.linear1.*",
    "transformer_decoder.layers.#.ffn.layers.1.*": "layers.#.linear2.*",
    "transformer_decoder.post_norm.*": "decoder_norm.*",
    "mask_embed.0.*": "mask_embed.layers.0.*",
    "mask_embed.2.*": "mask_embed.layers.1.*",
    "mask_embed.4.*": "mask_embed.layers.2.*",
    "query_embed_decoder.*": "query_embed.*",
    "cls_embed.*": "class_embed.*",
    "query_project.*": "text_proj.*",
    "norm_project.*": "query_norm.*",
    "query_reproject.*": "text_update.*",
    "norm_reproject.*": "text_update_norm.*",
    "mask_reproject.*": "mask_align.*",
    **_moved("query_feat.* level_embed.* gamma"),
}
MTA_CLIP_HEAD: Names = {
    **_moved(_MTA_CLIP_PIXEL_DECODER, "pixel_decoder.", "pixel_decoder."),
    **_moved(_MTA_CLIP_DECODER, "", "transformer_decoder."),
    **dict.fromkeys(("visual_emb_proj.*", "lang_embed.*"), _UNUSED),
}
_CLIP_TEXT = "token_embedding.* positional_embedding transformer.resblocks.* ln_final.* text_projection"
_CLIP_RESNET = "conv1.* conv2.* conv3.* bn1.* bn2.* bn3.* layer1.* layer2.* layer3.* layer4.*"
_CLIP_VIT = "class_embedding positional_embedding ln_pre.* transformer.resblocks.*"
_TOWERS_AND_CONTEXTS: Names = {
    "contexts": "prompt_learner.contexts",
    **_moved(_CLIP_TEXT, "text_encoder.", "prompt_learner.text_encoder.tower."),
    **_moved(f"{_CLIP_RESNET} {_CLIP_VIT}", "backbone.", "backbone.tower.visual."),
    **dict.fromkeys(("backbone.proj", "backbone.attnpool.*", "backbone.ln_post.*"), _POOL),
}
MTA_CLIP: Names = {
    **_moved(MTA_CLIP_HEAD, "decode_head.", "sem_seg_head."),
    **dict.fromkeys(("gamma", "auxiliary_head.*", "identity_head.*", "context_decoder.*"), _UNUSED),
    **_TOWERS_AND_CONTEXTS,
}
_DENSECLIP_DECODER = "context_decoder.* neck.* decode_head.* auxiliary_head.* identity_head.* gamma"
_DENSECLIP_FPN = "backbone.fpn1.* backbone.fpn2.* backbone.fpn3.* backbone.fpn4.*"
DENSECLIP: Names = {
    **dict.fromkeys(f"{_DENSECLIP_DECODER} {_DENSECLIP_FPN}".split(), _OTHER_NECK),
    **_TOWERS_AND_CONTEXTS,
}

# OpenAI's CLIP, whose names open_clip kept.
OPENAI_CLIP: Names = {
    **dict.fromkeys(("input_resolution", "context_length", "vocab_size"), _SETTING),
    **dict.fromkeys(("attn_mask", "*.attn_mask"), _MASK),
    **_moved(f"visual.* logit_scale {_CLIP_TEXT}"),
}

# The authors' TagCLIP on mmsegmentation.
_TAGCLIP_ENCODER: Names = {
    "prompt_embeddings": "prompts.first",
    "deep_prompt_embeddings": "prompts.deeper",
    "prompt_proj.*": "prompts.proj.*",
    "prompt_norm.*": "prompt_norm.*",
    **_moved("class_embedding positional_embedding proj conv1.* ln_pre.* ln_post.* transformer.*", "", "visual."),
}
_TAGCLIP_HEAD: Names = {
    "disc_token": "trusty_token",
    "relationship_discriptor.q_proj.*": "relationship_descriptor.proj.*",
    "decoder.layers.#.multihead_attn.*": "decoder.layers.#.cross_attn.*",
    "decoder.layers.#.*": "decoder.layers.#.*",
    "loss_decode.*": _NOT_RUN,
}
TAGCLIP: Names = {
    "text_encoder.*": _NOT_RUN,
    **_moved(_TAGCLIP_ENCODER, "backbone.", "backbone."),
    **_moved(_TAGCLIP_HEAD, "decode_head.", "head."),
}


def fold_class_embedding(weights: Weights) -> Weights:
    """Adds the class embedding to the first row of the position table: DenseCLIP adds it to its token twice."""
    token, table = "backbone.tower.visual.class_embedding", "backbone.tower.visual.positional_embedding"
    if token not in weights:
        return weights
    return weights | {table: torch.cat([weights[table][:1] + weights[token], weights[table][1:]])}


@dataclass(frozen=True)
class Source:
    """A released format."""

    names: Names
    keys: tuple[str, ...] = ("state_dict", "model")  # the first that is in the file holds the weights; else all do
    finish: Callable[[Weights], Weights] = dict  # last step on the renamed weights
    is_clip: bool = False  # the result is for MODEL.CLIP.PRETRAINED instead of MODEL.WEIGHTS


SOURCES = {
    "mask2former": Source(MASK2FORMER, keys=("model",)),
    "mta-clip": Source(MTA_CLIP),
    "denseclip": Source(DENSECLIP, finish=fold_class_embedding),
    "openai-clip": Source(OPENAI_CLIP, is_clip=True),
    "tagclip": Source(TAGCLIP),
    "torchvision-resnet": Source(TORCHVISION_RESNET),
}


def translate(name: str, table: Names) -> str:
    """Our name for an official one, or a `Dropped` that says why there is none.

    Raises:
        KeyError: the table does not have the name.
    """
    for official, ours in table.items():
        pattern = re.escape(official).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")
        if match := re.fullmatch(pattern, name):
            parts = iter(match.groups())
            return ours if isinstance(ours, Dropped) else re.sub(r"[#*]", lambda _: next(parts), ours)  # noqa: B023
    raise KeyError(f"no rule for the parameter name {name!r}; is the file of another format or version?")
