"""The tables of names: every official name of the reference files becomes one of ours, and no other."""

import pytest
from golden_files import golden_params, load, weights
from tagclip_reference import our_weights, reference_encoder, reference_head

from mta_clip.checkpoint.sources import Dropped, mask2former_to_ours, mta_clip_head_to_ours, tagclip_to_ours


def test_old_query_name():
    assert mask2former_to_ours("predictor.static_query.weight") == "transformer_decoder.query_feat.weight"


def test_the_first_row_that_fits_decides():
    assert mask2former_to_ours("pixel_decoder.adapter_1.norm.bias") == "pixel_decoder.lateral_convs.0.norm.bias"
    assert mask2former_to_ours("pixel_decoder.adapter_1.weight") == "pixel_decoder.lateral_convs.0.conv.weight"


@pytest.mark.parametrize(
    ("translate", "name"),
    [
        (mta_clip_head_to_ours, "visual_emb_proj.weight"),
        (mta_clip_head_to_ours, "lang_embed.bias"),
        (tagclip_to_ours, "text_encoder.transformer.resblocks.0.ln_1.weight"),
        (tagclip_to_ours, "decode_head.loss_decode.criterion.empty_weight"),
    ],
)
def test_unused_parameters_are_dropped(translate, name):
    assert isinstance(translate(name), Dropped)


@pytest.mark.parametrize(
    ("translate", "name"),
    [
        (mask2former_to_ours, "pixel_decoder.surprise.weight"),
        (mask2former_to_ours, "pixel_decoder.input_proj.x.0.weight"),  # no number
        (mask2former_to_ours, "predictor_query_feat.weight"),  # a dot is a dot
        (mta_clip_head_to_ours, "pixel_decoder.surprise.weight"),
        (tagclip_to_ours, "neck.conv.weight"),
        (tagclip_to_ours, "decode_head.decoder.query_embed"),
    ],
)
def test_unknown_names_are_refused(translate, name):
    with pytest.raises(KeyError) as error:
        translate(name)
    assert name in str(error.value)


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
    names = [name for name in map(translate, weights(arrays)) if not isinstance(name, Dropped)]
    assert len(names) == len(set(names))


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_e2e"))
def test_every_name_of_tagclip_is_ours_once(path):
    config, arrays = load(path)
    ours = [tagclip_to_ours(name) for name in weights(arrays)]
    assert len(set(ours)) == len(ours)
    encoder = reference_encoder(config, _part(arrays, "backbone."))
    head = reference_head(config, _part(arrays, "decode_head."))
    expected = [f"backbone.{name}" for name in encoder.state_dict()] + [f"head.{name}" for name in head.state_dict()]
    assert set(ours) == set(expected)


def _part(arrays: dict, prefix: str) -> dict:
    return our_weights({name: value for name, value in arrays.items() if name.startswith("w/" + prefix)}, prefix)
