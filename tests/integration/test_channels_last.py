"""MODEL.CHANNELS_LAST: another layout of the weights, the same numbers."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tiny_models import batch, tiny_config, tiny_tag_clip_config
from torch import nn

from mta_clip.checkpoint import SegmentationCheckpointer
from mta_clip.checkpoint.writers import save_weights

CONFIGS = {"MTACLIP": tiny_config, "Mask2Former": lambda: tiny_config(text=False), "TagCLIP": tiny_tag_clip_config}


def model_of(name: str, channels_last: bool) -> nn.Module:
    torch.manual_seed(0)
    cfg = CONFIGS[name]()
    cfg.MODEL.CHANNELS_LAST = channels_last
    return build_model(cfg)


def results(model: nn.Module) -> list[torch.Tensor]:
    """Weights after two steps, and scores."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    for seed in (1, 2):
        torch.manual_seed(seed)
        with EventStorage():
            sum(model.train()(batch()).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [*model.state_dict().values(), model.eval()(batch(1))[0]["sem_seg"]]


@pytest.mark.parametrize("name", CONFIGS)
def test_numbers_are_the_same(name):
    plain, other = (model_of(name, channels_last) for channels_last in (False, True))
    convolutions = [m for m in other.backbone.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    for actual, expected in zip(results(other), results(plain), strict=True):
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_fit_either_layout(suffix, tmp_path):
    models = [model_of("MTACLIP", channels_last) for channels_last in (True, False)]
    for source, target in (models, models[::-1]):
        nn.init.normal_(next(source.backbone.parameters()))
        save_weights(source.state_dict(), tmp_path / f"weights.{suffix}")
        SegmentationCheckpointer(target).load(str(tmp_path / f"weights.{suffix}"))
        torch.testing.assert_close(dict(target.state_dict()), dict(source.state_dict()), rtol=0, atol=0)
