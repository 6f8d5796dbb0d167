"""Rows of token ids: CLIP's own, and those of transformers with and without start tokens."""

import open_clip
import pytest
import tokenizers
import transformers
from open_clip.tokenizer import HFTokenizer

from mta_clip.modeling.clip import text_tokenizer
from mta_clip.modeling.clip.text_tokenizer import CLIPTokenizer, HuggingFaceTokenizer, build_tokenizer

WORDS = {word: i for i, word in enumerate(["<pad>", "</s>", "<s>", "<unk>", "a", "red", "car"])}


def words(template: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of words between special tokens as in `template`."""
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = [(token, WORDS[token]) for token in ("<s>", "</s>")]
    model.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=special)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="</s>", sep_token="</s>", unk_token="<unk>"
    )


def test_clips_own_rows_are_open_clips():
    rows, reference = build_tokenizer("mta-tiny")(["Red car", "sky "]), open_clip.get_tokenizer("mta-tiny")
    assert [
        reference(text)[0, : len(row)].tolist() for text, row in zip(["Red car", "sky "], rows, strict=True)
    ] == rows


@pytest.mark.parametrize("template, start, row", [("$A </s>", 0, [5, 6, 1]), ("<s> $A </s>", 1, [2, 5, 6, 1])])
def test_start_tokens_are_found(template, start, row):
    tokenizer = HuggingFaceTokenizer(words(template))
    assert (tokenizer.start, tokenizer.pad_id) == (start, 0)
    assert tokenizer(["red car", "a"]) == [row, [*row[:start], 4, 1]]


def test_of_open_clips_architectures(monkeypatch):
    """Cleaning and stripping are open_clip's; the start is that of what it wraps."""

    def siglip(name):
        wrapper = object.__new__(HFTokenizer)
        wrapper.tokenizer, wrapper.strip_sep_token = words("<s> $A </s>"), name == "ViT-H-14-CLIPA"
        wrapper.clean_fn = open_clip.tokenizer.get_clean_fn("canonicalize")
        wrapper.tokenizer_mode, wrapper.context_length = "", 6
        return wrapper

    monkeypatch.setattr(open_clip, "get_tokenizer", siglip)
    for name in ("ViT-B-16-SigLIP", "ViT-H-14-CLIPA"):
        rows = build_tokenizer(name)(["A red, CAR!", "car"])
        assert [row + [0] * (6 - len(row)) for row in rows] == siglip(name)(["A red, CAR!", "car"]).tolist()
    assert rows[1] == [2, 6, 0]


def test_errors(monkeypatch):
    with pytest.raises(OSError, match="could not load the tokenizer 'timm/ViT-B-16-SigLIP' of ViT-B-16-SigLIP"):
        build_tokenizer("ViT-B-16-SigLIP")  # tests have no network
    config = {"hf_tokenizer_name": "x", "tokenizer_mode": "clips"}
    monkeypatch.setattr(text_tokenizer, "clip_config", lambda name, part: {"text_cfg": config})
    with pytest.raises(ValueError, match="tokenizer_mode 'clips' is not supported"):
        build_tokenizer("mta-tiny")
    assert isinstance(CLIPTokenizer(open_clip.get_tokenizer("RN50")), text_tokenizer.TextTokenizer)
