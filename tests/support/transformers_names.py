"""Our names for the parameters of `transformers`' Mask2Former, an independent implementation."""

import re
from collections.abc import Iterable

import torch

TRANSFORMERS_HEAD = (
    (r"model\.pixel_level_module\.decoder\.level_embed", r"pixel_decoder.level_embed"),
    (r"model\.pixel_level_module\.decoder\.input_projections\.(\d)\.0\.(.+)", r"pixel_decoder.input_proj.\1.conv.\2"),
    (r"model\.pixel_level_module\.decoder\.input_projections\.(\d)\.1\.(.+)", r"pixel_decoder.input_proj.\1.norm.\2"),
    (r"model\.pixel_level_module\.decoder\.adapter_1\.0\.(.+)", r"pixel_decoder.lateral_convs.0.conv.\1"),
    (r"model\.pixel_level_module\.decoder\.adapter_1\.1\.(.+)", r"pixel_decoder.lateral_convs.0.norm.\1"),
    (r"model\.pixel_level_module\.decoder\.layer_1\.0\.(.+)", r"pixel_decoder.output_convs.0.conv.\1"),
    (r"model\.pixel_level_module\.decoder\.layer_1\.1\.(.+)", r"pixel_decoder.output_convs.0.norm.\1"),
    (r"model\.pixel_level_module\.decoder\.mask_projection\.(.+)", r"pixel_decoder.mask_features.\1"),
    (r"model\.pixel_level_module\.decoder\.encoder\.(layers\.\d+)\.self_attn\.(.+)", r"pixel_decoder.\1.self_attn.\2"),
    (
        r"model\.pixel_level_module\.decoder\.encoder\.(layers\.\d+)\.self_attn_layer_norm\.(.+)",
        r"pixel_decoder.\1.norm1.\2",
    ),
    (
        r"model\.pixel_level_module\.decoder\.encoder\.(layers\.\d+)\.final_layer_norm\.(.+)",
        r"pixel_decoder.\1.norm2.\2",
    ),
    (r"model\.pixel_level_module\.decoder\.encoder\.(layers\.\d+)\.fc(\d)\.(.+)", r"pixel_decoder.\1.linear\2.\3"),
    (r"model\.transformer_module\.queries_embedder\.(.+)", r"transformer_decoder.query_embed.\1"),
    (r"model\.transformer_module\.queries_features\.(.+)", r"transformer_decoder.query_feat.\1"),
    (r"model\.transformer_module\.level_embed\.(.+)", r"transformer_decoder.level_embed.\1"),
    (r"model\.transformer_module\.input_projections\.(.+)", r"transformer_decoder.input_proj.\1"),
    (r"model\.transformer_module\.decoder\.layernorm\.(.+)", r"transformer_decoder.decoder_norm.\1"),
    (
        r"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.(.+)",
        r"transformer_decoder.mask_embed.layers.\1.\2",
    ),
    (
        r"model\.transformer_module\.decoder\.(layers\.\d+)\.(self|cross)_attn\.(.+)",
        r"transformer_decoder.\1.\2_attn.\3",
    ),
    (
        r"model\.transformer_module\.decoder\.(layers\.\d+)\.(self|cross)_attn_layer_norm\.(.+)",
        r"transformer_decoder.\1.\2_attn_norm.\3",
    ),
    (
        r"model\.transformer_module\.decoder\.(layers\.\d+)\.final_layer_norm\.(.+)",
        r"transformer_decoder.\1.ffn_norm.\2",
    ),
    (r"model\.transformer_module\.decoder\.(layers\.\d+)\.fc(\d)\.(.+)", r"transformer_decoder.\1.linear\2.\3"),
    (r"class_predictor\.(.+)", r"transformer_decoder.class_embed.\1"),
)


def head_state_dict(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our head's part of the state dict of a `Mask2FormerForUniversalSegmentation`, renamed."""
    renamed = {}
    for name, value in state_dict.items():
        if name.startswith(("model.pixel_level_module.encoder.", "criterion.")):
            continue
        renamed[rename(name, TRANSFORMERS_HEAD)] = value
    for name in [name for name in renamed if ".self_attn.q_proj." in name]:
        # one packed projection here, three there
        parts = [renamed.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        renamed[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return renamed


def rename(name: str, table: Iterable[tuple[str, str]]) -> str:
    """What the first pattern of a table that fits a name replaces it by; KeyError if none does."""
    for pattern, replacement in table:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    raise KeyError(name)
