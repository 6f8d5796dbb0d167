import pytest
from golden_files import golden_params, load, weights
from tagclip_reference import our_weights, reference_encoder, reference_head

from mta_clip.checkpoint.tagclip_names import tagclip_to_ours


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_e2e"))
def test_every_official_name_is_ours_once(path):
    config, arrays = load(path)
    ours = [tagclip_to_ours(name) for name in weights(arrays)]
    assert len(set(ours)) == len(ours) and None not in ours
    encoder = reference_encoder(config, _part(arrays, "backbone."))
    head = reference_head(config, _part(arrays, "decode_head."))
    expected = [f"backbone.{name}" for name in encoder.state_dict()] + [f"head.{name}" for name in head.state_dict()]
    assert set(ours) == set(expected)


def _part(arrays: dict, prefix: str) -> dict:
    return our_weights({name: value for name, value in arrays.items() if name.startswith("w/" + prefix)}, prefix)


def test_dropped_and_unknown_names():
    assert tagclip_to_ours("text_encoder.transformer.resblocks.0.ln_1.weight") is None
    assert tagclip_to_ours("decode_head.loss_decode.criterion.empty_weight") is None
    with pytest.raises(KeyError, match="neck"):
        tagclip_to_ours("neck.conv.weight")
    with pytest.raises(KeyError, match=r"decoder\.query_embed"):
        tagclip_to_ours("decode_head.decoder.query_embed")
