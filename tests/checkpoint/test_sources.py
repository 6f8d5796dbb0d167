"""The tables of names: every official name of the reference files becomes one of ours, and no other."""

import pytest
import torch
from detectron2.modeling import build_backbone
from golden_files import golden_params, load, weights
from released_weights import swin_names
from tagclip_reference import our_weights, reference_encoder, reference_head

from mta_clip.checkpoint.sources import MASK2FORMER, MASK2FORMER_HEAD, MTA_CLIP_HEAD, TAGCLIP, Dropped, translate
from mta_clip.config_loader import load_config


@pytest.mark.parametrize(
    "size, width, depths, heads, window",
    [
        ("tiny", 96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
        ("small", 96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
        ("base", 128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
        ("large", 192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
    ],
)
def test_shipped_swin_configs_have_the_official_parameters(size, width, depths, heads, window):
    """Sizes as in configs/ade20k/semantic-segmentation/swin of Mask2Former."""
    cfg = load_config(f"configs/ade20k/mask2former_swin_{size}.yaml", ["MODEL.CLIP.IMAGE_PRETRAINED", ""])
    with torch.device("meta"):  # no memory for weights
        own = {f"backbone.{name}": tuple(p.shape) for name, p in build_backbone(cfg).named_parameters()}
    official = swin_names(width=width, depths=depths, heads=heads, window=window)
    renamed = {translate(f"backbone.{name}", MASK2FORMER): shape for name, shape in official.items()}
    assert {name: shape for name, shape in renamed.items() if not isinstance(name, Dropped)} == own


def test_old_query_name():
    assert translate("predictor.static_query.weight", MASK2FORMER_HEAD) == "transformer_decoder.query_feat.weight"


def test_the_first_row_that_fits_decides():
    assert translate("pixel_decoder.adapter_1.norm.bias", MASK2FORMER_HEAD) == "pixel_decoder.lateral_convs.0.norm.bias"
    assert translate("pixel_decoder.adapter_1.weight", MASK2FORMER_HEAD) == "pixel_decoder.lateral_convs.0.conv.weight"


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (MTA_CLIP_HEAD, "visual_emb_proj.weight"),
        (MTA_CLIP_HEAD, "lang_embed.bias"),
        (TAGCLIP, "text_encoder.transformer.resblocks.0.ln_1.weight"),
        (TAGCLIP, "decode_head.loss_decode.criterion.empty_weight"),
    ],
)
def test_unused_parameters_are_dropped(table, name):
    assert isinstance(translate(name, table), Dropped)


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (MASK2FORMER_HEAD, "pixel_decoder.surprise.weight"),
        (MASK2FORMER_HEAD, "pixel_decoder.input_proj.x.0.weight"),  # no number
        (MASK2FORMER_HEAD, "predictor_query_feat.weight"),  # a dot is a dot
        (MTA_CLIP_HEAD, "pixel_decoder.surprise.weight"),
        (TAGCLIP, "neck.conv.weight"),
        (TAGCLIP, "decode_head.decoder.query_embed"),
    ],
)
def test_unknown_names_are_refused(table, name):
    with pytest.raises(KeyError) as error:
        translate(name, table)
    assert name in str(error.value)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("path", "table"),
    [(p.values[0], MASK2FORMER_HEAD) for p in golden_params("m2f")]
    + [(p.values[0], MTA_CLIP_HEAD) for p in golden_params("mta_head")],
    ids=lambda value: getattr(value, "stem", None),
)
def test_no_two_names_become_one(path, table):
    if path is None:
        pytest.skip("no golden file of this kind")
    _, arrays = load(path)
    renamed = [translate(name, table) for name in weights(arrays)]
    names = [name for name in renamed if not isinstance(name, Dropped)]
    assert len(names) == len(set(names))


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_e2e"))
def test_every_name_of_tagclip_is_ours_once(path):
    config, arrays = load(path)
    ours = [translate(name, TAGCLIP) for name in weights(arrays)]
    assert len(set(ours)) == len(ours)
    encoder = reference_encoder(config, _part(arrays, "backbone."))
    head = reference_head(config, _part(arrays, "decode_head."))
    expected = [f"backbone.{name}" for name in encoder.state_dict()] + [f"head.{name}" for name in head.state_dict()]
    assert set(ours) == set(expected)


def _part(arrays: dict, prefix: str) -> dict:
    return our_weights({name: value for name, value in arrays.items() if name.startswith("w/" + prefix)}, prefix)
