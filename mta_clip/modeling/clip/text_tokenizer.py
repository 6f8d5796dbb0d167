"""Tokenizers of text towers, as rows of token ids without padding.

Shapes: K texts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import open_clip

from ...extras import import_extra
from .text_towers.hugging_face import PREFIX, load_tokenizer
from .towers import clip_config


class TextTokenizer:
    """Texts to token ids, with start and end tokens where a tower has them.

    Attributes:
        start: number of start tokens, 0 or 1.
        pad_id: padding, for towers that see it.
    """

    start: int
    pad_id: int

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of K texts, of any length."""
        raise NotImplementedError


class CLIPTokenizer(TextTokenizer):
    """CLIP's own byte-pair encoding. `tokenizer` is open_clip's `SimpleTokenizer`."""

    start, pad_id = 1, 0

    def __init__(self, tokenizer: open_clip.SimpleTokenizer):
        self.tokenizer = tokenizer

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """See TextTokenizer."""
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        return [[start, *self.tokenizer.encode(text), end] for text in texts]


class HuggingFaceTokenizer(TextTokenizer):
    """A tokenizer of transformers.

    Args:
        tokenizer: e.g. from `AutoTokenizer`.
        clean: applied to each text first.
        strip_separator: replaces end tokens ([SEP]) by zeros, as in CLIPA.
    """

    def __init__(self, tokenizer: Any, clean: Callable[[str], str] = str, strip_separator: bool = False):
        self.tokenizer, self.clean, self.strip_separator = tokenizer, clean, strip_separator
        whole, bare = (tokenizer("a", add_special_tokens=special).input_ids for special in (True, False))
        self.start = whole.index(bare[0])
        self.pad_id = tokenizer.pad_token_id or 0

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """See TextTokenizer."""
        rows = self.tokenizer([self.clean(text) for text in texts]).input_ids
        if self.strip_separator:
            rows = [[0 if token == self.tokenizer.sep_token_id else token for token in row] for row in rows]
        return rows


def build_tokenizer(name: str) -> TextTokenizer:
    """The tokenizer of an open_clip architecture, or of a Hugging Face model (`hf:<folder or id>`).

    Raises:
        ModuleNotFoundError: it needs transformers, which is not installed.
        OSError: its files could not be downloaded.
        ValueError: unknown architecture, or a way of tokenizing that is not known here.
    """
    if name.startswith(PREFIX):
        return HuggingFaceTokenizer(load_tokenizer(name.removeprefix(PREFIX)))
    config = clip_config(name, "TEXT")["text_cfg"]
    if not (source := config.get("hf_tokenizer_name")):
        return CLIPTokenizer(open_clip.get_tokenizer(name))
    if config.get("tokenizer_mode"):
        raise ValueError(f"{name}: tokenizer_mode {config['tokenizer_mode']!r} is not supported")
    import_extra("transformers", "hf", f"the tokenizer of {name}")
    try:
        tokenizer = open_clip.get_tokenizer(name)
    except (OSError, ValueError) as error:
        raise OSError(
            f"could not load the tokenizer {source!r} of {name} ({error}). Without network, copy the Hugging Face "
            "cache folder (~/.cache/huggingface, or $HF_HOME) to this machine"
        ) from error
    return HuggingFaceTokenizer(tokenizer.tokenizer, tokenizer.clean_fn, tokenizer.strip_sep_token)
