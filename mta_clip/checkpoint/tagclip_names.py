"""Parameter names of the released TagCLIP code (built on mmseg), and ours for them."""

from .names import NameTable, translate

# The prompted image encoder, `backbone.` cut off.
TAGCLIP_ENCODER: NameTable = (
    (r"prompt_embeddings", r"prompts.first"),
    (r"deep_prompt_embeddings", r"prompts.deeper"),
    (r"prompt_proj\.(.+)", r"prompts.proj.\1"),
    (r"prompt_norm\.(.+)", r"prompt_norm.\1"),
    (r"(class_embedding|positional_embedding|proj)", r"visual.\1"),
    (r"(conv1|ln_pre|ln_post|transformer)\.(.+)", r"visual.\1.\2"),
)

# The decode head, `decode_head.` cut off.
TAGCLIP_HEAD: NameTable = (
    (r"disc_token", r"trusty_token"),
    (r"relationship_discriptor\.q_proj\.(.+)", r"relationship_descriptor.proj.\1"),
    (r"decoder\.layers\.(\d+)\.multihead_attn\.(.+)", r"decoder.layers.\1.cross_attn.\2"),
    (r"decoder\.layers\.(\d+)\.(.+)", r"decoder.layers.\1.\2"),
    (r"loss_decode\..+", None),  # a constant
)


def tagclip_to_ours(name: str) -> str | None:
    """Our name in the `TagCLIP` model of a parameter of the released segmentor; see `translate`.

    Args:
        name: as in the released checkpoint, with its `backbone.`, `decode_head.` or `text_encoder.` in front.

    Returns:
        Our name, or None for what is dropped: the text encoder, which the released code builds but never runs, and a
        constant of its loss.

    Raises:
        KeyError: the released code has no such parameter.
    """
    part, _, rest = name.partition(".")
    tables = {"backbone": ("backbone", TAGCLIP_ENCODER), "decode_head": ("head", TAGCLIP_HEAD)}
    if part == "text_encoder":
        return None
    if part not in tables:
        raise KeyError(f"no rule for the parameter name {name!r}; TagCLIP's start with backbone. or decode_head.")
    ours, table = tables[part]
    renamed = translate(rest, table)
    return None if renamed is None else f"{ours}.{renamed}"
