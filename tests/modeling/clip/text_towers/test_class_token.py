"""CoCa's text tower against open_clip's."""

import pytest
from open_clip.transformer import TextTransformer
from text_oracle import assert_equal, randomise

from mta_clip.modeling.clip.text_towers import ClassTokenTextTower, adapt_text_tower

START, END, LENGTH = 48, 49, 10
ROWS = [[START, 3, END], [START, 7, 8, 9, END], [START, END]]


def transformer(**options) -> TextTransformer:
    sizes = {"context_length": LENGTH, "vocab_size": 50, "width": 32, "heads": 4, "layers": 3, "output_dim": 24}
    return randomise(TextTransformer(**{**sizes, "embed_cls": True, **options}))


@pytest.mark.parametrize("contexts", [[[]], [[11, 12], [13, 14]]])
def test_equals_open_clip(contexts):
    """Texts that leave many positions free, one, and none."""
    source = transformer()
    tower = adapt_text_tower(source)
    assert type(tower) is ClassTokenTextTower and tower.context_length == LENGTH
    for longest in (0, LENGTH - 1, LENGTH):
        words = [5] * (longest - len(contexts[0]) - 2)
        rows = [*ROWS, [START, *words, END]]
        assert_equal(tower, source, source.token_embedding, rows, contexts, start=1, padding=0)


def test_a_class_token_of_its_own_mask_is_refused():
    with pytest.raises(ValueError, match="mask of its own"):
        adapt_text_tower(transformer(correct_cls_mask=True))
