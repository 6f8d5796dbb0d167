"""Which towers are accepted, and what all kinds have in common."""

import open_clip
import pytest
import torch
from tiny_towers import CHANNELS, visual_of
from torch import nn

from mta_clip.modeling.clip.image_towers import IMAGE_TOWERS, build_feature_tower


@pytest.mark.parametrize("name", CHANNELS)
def test_a_tower_is_of_one_kind(name):
    visual = visual_of(name)
    visual = getattr(visual, "trunk", visual)
    kinds = [kind for _, kind in IMAGE_TOWERS if kind.accepts(visual)]
    assert kinds == [type(build_feature_tower(visual))]


@pytest.mark.parametrize("name", CHANNELS)
def test_stages_hold_every_parameter_of_the_tower_once(name):
    tower = build_feature_tower(visual_of(name))
    parts = [part for stage in tower.stages() for part in stage]
    held = [p for part in parts for p in (part.parameters() if isinstance(part, nn.Module) else [part])]
    assert sorted(map(id, held)) == sorted(map(id, tower.visual.parameters()))


def test_other_towers_are_refused():
    with pytest.raises(ValueError, match="image tower Linear is not supported"):
        build_feature_tower(nn.Linear(2, 2))


@pytest.mark.slow
def test_architectures_of_open_clip():
    """docs/towers.md lists them: 143 of 144 in open_clip 3.3."""
    refused = []
    names = [name for name in open_clip.list_models() if not name.startswith(("mta-", "test-"))]
    with torch.device("meta"):  # no memory for weights
        for name in names:
            config = open_clip.get_model_config(name)
            visual = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
            try:
                build_feature_tower(visual)
            except ValueError as error:
                assert "is not supported" in str(error)
                refused.append(name)
    assert refused == ["vit_relpos_medium_patch16_cls_224"]  # its position biases are of one image size
    if open_clip.__version__.startswith("3.3."):
        assert len(names) == 144
