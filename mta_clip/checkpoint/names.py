"""How official parameter names become ours, as data: one table of (pattern, replacement) per released format.

Names are relative to the head (`pixel_decoder.…`, not `sem_seg_head.pixel_decoder.…`). A table is read from top to
bottom and the first pattern that matches a name completely decides. A replacement of None drops the entry: the
official code stores it but never uses it.
"""

import re

NameTable = tuple[tuple[str, str | None], ...]

# Mask2Former on Detectron2: `pixel_decoder.*` and `predictor.*`.
MASK2FORMER_HEAD: NameTable = (
    (r"pixel_decoder\.input_proj\.(\d+)\.0\.(.+)", r"pixel_decoder.input_proj.\1.conv.\2"),
    (r"pixel_decoder\.input_proj\.(\d+)\.1\.(.+)", r"pixel_decoder.input_proj.\1.norm.\2"),
    (r"pixel_decoder\.transformer\.level_embed", r"pixel_decoder.level_embed"),
    (r"pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.(.+)", r"pixel_decoder.layers.\1.\2"),
    (r"pixel_decoder\.adapter_1\.norm\.(.+)", r"pixel_decoder.lateral_convs.0.norm.\1"),
    (r"pixel_decoder\.adapter_1\.(.+)", r"pixel_decoder.lateral_convs.0.conv.\1"),
    (r"pixel_decoder\.layer_1\.norm\.(.+)", r"pixel_decoder.output_convs.0.norm.\1"),
    (r"pixel_decoder\.layer_1\.(.+)", r"pixel_decoder.output_convs.0.conv.\1"),
    (r"pixel_decoder\.mask_features\.(.+)", r"pixel_decoder.mask_features.\1"),
    (
        r"predictor\.transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.+)",
        r"transformer_decoder.layers.\1.cross_attn.\2",
    ),
    (
        r"predictor\.transformer_cross_attention_layers\.(\d+)\.norm\.(.+)",
        r"transformer_decoder.layers.\1.cross_attn_norm.\2",
    ),
    (
        r"predictor\.transformer_self_attention_layers\.(\d+)\.self_attn\.(.+)",
        r"transformer_decoder.layers.\1.self_attn.\2",
    ),
    (
        r"predictor\.transformer_self_attention_layers\.(\d+)\.norm\.(.+)",
        r"transformer_decoder.layers.\1.self_attn_norm.\2",
    ),
    (r"predictor\.transformer_ffn_layers\.(\d+)\.norm\.(.+)", r"transformer_decoder.layers.\1.ffn_norm.\2"),
    (r"predictor\.transformer_ffn_layers\.(\d+)\.(.+)", r"transformer_decoder.layers.\1.\2"),
    (r"predictor\.static_query\.(.+)", r"transformer_decoder.query_feat.\1"),  # before version 2
    (
        r"predictor\.(decoder_norm|query_feat|query_embed|level_embed|class_embed|mask_embed|input_proj)\.(.+)",
        r"transformer_decoder.\1.\2",
    ),
)

# The authors' MTA-CLIP head (mmdet style), `decode_head.` cut off.
MTA_CLIP_HEAD: NameTable = (
    (r"pixel_decoder\.input_convs\.(\d+)\.conv\.(.+)", r"pixel_decoder.input_proj.\1.conv.\2"),
    (r"pixel_decoder\.input_convs\.(\d+)\.gn\.(.+)", r"pixel_decoder.input_proj.\1.norm.\2"),
    (r"pixel_decoder\.level_encoding\.weight", r"pixel_decoder.level_embed"),
    (r"pixel_decoder\.encoder\.layers\.(\d+)\.self_attn\.(.+)", r"pixel_decoder.layers.\1.self_attn.\2"),
    (r"pixel_decoder\.encoder\.layers\.(\d+)\.ffn\.layers\.0\.0\.(.+)", r"pixel_decoder.layers.\1.linear1.\2"),
    (r"pixel_decoder\.encoder\.layers\.(\d+)\.ffn\.layers\.1\.(.+)", r"pixel_decoder.layers.\1.linear2.\2"),
    (r"pixel_decoder\.encoder\.layers\.(\d+)\.norms\.0\.(.+)", r"pixel_decoder.layers.\1.norm1.\2"),
    (r"pixel_decoder\.encoder\.layers\.(\d+)\.norms\.1\.(.+)", r"pixel_decoder.layers.\1.norm2.\2"),
    (r"pixel_decoder\.(lateral|output)_convs\.(\d+)\.conv\.(.+)", r"pixel_decoder.\1_convs.\2.conv.\3"),
    (r"pixel_decoder\.(lateral|output)_convs\.(\d+)\.gn\.(.+)", r"pixel_decoder.\1_convs.\2.norm.\3"),
    (r"pixel_decoder\.mask_feature\.(.+)", r"pixel_decoder.mask_features.\1"),
    (
        r"transformer_decoder\.layers\.(\d+)\.(cross|self)_attn\.attn\.(.+)",
        r"transformer_decoder.layers.\1.\2_attn.\3",
    ),
    (r"transformer_decoder\.layers\.(\d+)\.norms\.0\.(.+)", r"transformer_decoder.layers.\1.cross_attn_norm.\2"),
    (r"transformer_decoder\.layers\.(\d+)\.norms\.1\.(.+)", r"transformer_decoder.layers.\1.self_attn_norm.\2"),
    (r"transformer_decoder\.layers\.(\d+)\.norms\.2\.(.+)", r"transformer_decoder.layers.\1.ffn_norm.\2"),
    (r"transformer_decoder\.layers\.(\d+)\.ffn\.layers\.0\.0\.(.+)", r"transformer_decoder.layers.\1.linear1.\2"),
    (r"transformer_decoder\.layers\.(\d+)\.ffn\.layers\.1\.(.+)", r"transformer_decoder.layers.\1.linear2.\2"),
    (r"transformer_decoder\.post_norm\.(.+)", r"transformer_decoder.decoder_norm.\1"),
    (r"mask_embed\.0\.(.+)", r"transformer_decoder.mask_embed.layers.0.\1"),
    (r"mask_embed\.2\.(.+)", r"transformer_decoder.mask_embed.layers.1.\1"),
    (r"mask_embed\.4\.(.+)", r"transformer_decoder.mask_embed.layers.2.\1"),
    (r"query_embed_decoder\.(.+)", r"transformer_decoder.query_embed.\1"),
    (r"cls_embed\.(.+)", r"transformer_decoder.class_embed.\1"),
    (r"query_project\.(.+)", r"transformer_decoder.text_proj.\1"),
    (r"norm_project\.(.+)", r"transformer_decoder.query_norm.\1"),
    (r"query_reproject\.(.+)", r"transformer_decoder.text_update.\1"),
    (r"norm_reproject\.(.+)", r"transformer_decoder.text_update_norm.\1"),
    (r"mask_reproject\.(.+)", r"transformer_decoder.mask_align.\1"),
    (r"(query_feat|level_embed)\.(.+)", r"transformer_decoder.\1.\2"),
    (r"gamma", r"transformer_decoder.gamma"),
    (r"visual_emb_proj\.(.+)|lang_embed\.(.+)", None),
)


def mask2former_to_ours(name: str) -> str | None:
    """Our name, relative to the head, of a parameter of Mask2Former's head; see `translate`."""
    return translate(name, MASK2FORMER_HEAD)


def mta_clip_head_to_ours(name: str) -> str | None:
    """Our name, relative to the head, of a parameter of the authors' MTA-CLIP head; see `translate`."""
    return translate(name, MTA_CLIP_HEAD)


def translate(name: str, table: NameTable) -> str | None:
    """Looks a name up in a table.

    Returns:
        Our name, or None if the entry is dropped.

    Raises:
        KeyError: the table does not know the name.
    """
    for pattern, replacement in table:
        match = re.fullmatch(pattern, name)
        if match:
            return None if replacement is None else match.expand(replacement)
    raise KeyError(f"no rule for the parameter name {name!r}; is the file of another format or version?")
