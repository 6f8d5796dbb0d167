import pytest
from golden_files import golden_params, load, weights

from mta_clip.checkpoint.names import mask2former_to_ours, mta_clip_head_to_ours


def test_old_query_name():
    assert mask2former_to_ours("predictor.static_query.weight") == "transformer_decoder.query_feat.weight"


def test_unused_parameters_are_dropped():
    assert mta_clip_head_to_ours("visual_emb_proj.weight") is None
    assert mta_clip_head_to_ours("lang_embed.bias") is None


@pytest.mark.parametrize("translate", [mask2former_to_ours, mta_clip_head_to_ours])
def test_unknown_names_are_refused(translate):
    with pytest.raises(KeyError, match=r"pixel_decoder\.surprise"):
        translate("pixel_decoder.surprise.weight")


@pytest.mark.golden
@pytest.mark.parametrize(
    ("path", "translate"),
    [(p.values[0], mask2former_to_ours) for p in golden_params("m2f")]
    + [(p.values[0], mta_clip_head_to_ours) for p in golden_params("mta_head")],
    ids=lambda value: getattr(value, "stem", None),
)
def test_no_two_names_become_one(path, translate):
    if path is None:
        pytest.skip("no golden file of this kind")
    _, arrays = load(path)
    names = [name for name in map(translate, weights(arrays)) if name is not None]
    assert len(names) == len(set(names))
