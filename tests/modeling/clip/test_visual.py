"""Building image towers by name: open_clip's without a text side, timm's models, their weights and pixel statistics."""

import logging

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_towers import visual_of

from mta_clip.config import get_cfg
from mta_clip.modeling.clip import CLIPImageEncoder, build_clip
from mta_clip.modeling.clip.visual import build_visual, image_tower_settings, warn_of_other_pixels

IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    own, other = first.state_dict(), second.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)


@pytest.mark.parametrize(
    "keys, expected",
    [
        ({}, ("RN50", "openai", True)),
        ({"IMAGE_PRETRAINED": "own.pt"}, ("RN50", "own.pt", True)),
        ({"IMAGE_NAME": "ViT-B-16"}, ("ViT-B-16", "", False)),
        ({"IMAGE_NAME": "timm:resnet50", "IMAGE_PRETRAINED": "timm"}, ("timm:resnet50", "timm", False)),
    ],
)
def test_settings_from_a_config(keys, expected):
    cfg = get_cfg()
    for key, value in keys.items():
        cfg.MODEL.CLIP[key] = value
    assert tuple(image_tower_settings(cfg).values()) == expected


def test_the_tower_of_an_architecture_is_open_clips(tmp_path):
    model = build_clip(name="mta-tiny")
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    assert same_weights(build_visual(name="mta-tiny", pretrained=str(tmp_path / "clip.pt")), model.visual)


def test_no_text_tower_is_built_where_it_would_need_hugging_face(tmp_path, monkeypatch):
    """An image tower alone, with its part of the weights; a table of positions of another size is resized."""
    config = open_clip.get_model_config("mta-tiny-vit")
    monkeypatch.setattr("mta_clip.modeling.clip.visual.clip_config", lambda name, part: config)
    model = build_clip(name="mta-tiny-vit")
    config["text_cfg"] = {"hf_model_name": "nobody/nothing"}
    torch.save({"state_dict": model.state_dict()}, tmp_path / "clip.pt")
    assert same_weights(build_visual(name="mta-tiny-vit", pretrained=str(tmp_path / "clip.pt")), model.visual)
    config["vision_cfg"]["image_size"] *= 2
    larger = build_visual(name="mta-tiny-vit", pretrained=str(tmp_path / "clip.pt"))
    assert torch.equal(larger.conv1.weight, model.visual.conv1.weight)
    torch.save(model.visual.state_dict(), tmp_path / "visual.pt")
    with pytest.raises(ValueError, match=r"IMAGE_PRETRAINED: .*visual\.pt does not hold weights of mta-tiny-vit"):
        build_visual(name="mta-tiny-vit", pretrained=str(tmp_path / "visual.pt"))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "tiny_swin", "tiny_dinov3"])
def test_timm_files(name, tmp_path):
    """With and without the classifier of the original task."""
    model = timm.create_model(name, num_classes=7)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": build_visual(name=f"timm:{name}").state_dict()}, tmp_path / "headless.pth")
    visual = build_visual(name=f"timm:{name}", pretrained=str(tmp_path / "weights.safetensors"))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in visual.state_dict().items())
    build_visual(name=f"timm:{name}", pretrained=str(tmp_path / "headless.pth"))


def test_swin_authors_files(tmp_path):
    """Microsoft's files have the downsampling one stage earlier, and constants."""
    model = visual_of("timm:tiny_swin")
    state = {key: value for key, value in model.state_dict().items() if "downsample" not in key}
    for stage in (1, 2, 3):
        for key, value in model.layers[stage].downsample.state_dict().items():
            state[f"layers.{stage - 1}.downsample.{key}"] = value
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 9, 9)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(9, 9, dtype=torch.int64)
    state |= {"head.weight": torch.zeros(1000, 128), "head.bias": torch.zeros(1000)}
    torch.save({"model": state}, tmp_path / "swin.pth")
    assert same_weights(build_visual(name="timm:tiny_swin", pretrained=str(tmp_path / "swin.pth")), model)


def test_refuses_unfit_timm_files(tmp_path):
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "resnet.safetensors")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    for file in ("resnet.safetensors", "text.pth"):
        with pytest.raises(ValueError, match=f"{file} does not hold weights of timm's test_efficientnet"):
            build_visual(name="timm:test_efficientnet", pretrained=str(tmp_path / file))
    with pytest.raises(FileNotFoundError, match=r"IMAGE_PRETRAINED: no such file: .*absent\.pth"):
        build_visual(name="timm:test_resnet", pretrained=str(tmp_path / "absent.pth"))
    with pytest.raises(FileNotFoundError, match=r"PRETRAINED or IMAGE_PRETRAINED: no such file: .*absent\.pth"):
        build_visual(name="mta-tiny", pretrained=str(tmp_path / "absent.pth"))


def test_failed_download_says_what_to_do(monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("name resolution failed")

    monkeypatch.setattr("mta_clip.modeling.clip.visual.timm.create_model", no_network)
    with pytest.raises(OSError, match=r"timm's resnet50 .*name resolution failed.*MODEL\.CLIP\.IMAGE_PRETRAINED"):
        build_visual(name="timm:resnet50", pretrained="timm")


def test_unknown_names_and_drop_path():
    with pytest.raises(ValueError, match=r"MODEL\.CLIP\.NAME or IMAGE_NAME: open_clip has no architecture 'vit-b16'"):
        build_visual(name="vit-b16")
    with pytest.raises(ValueError, match=r"timm has no model 'resnet_50'; did you mean .*resnet50"):
        build_visual(name="timm:resnet_50")
    with pytest.raises(ValueError, match=r"IMAGE_DROP_PATH 0\.1 is for timm's models \(timm:NAME\), and RN50 is none"):
        build_visual(name="RN50", drop_path=0.1)
    with pytest.raises(ValueError, match=r"IMAGE_DROP_PATH 0\.1: timm's densenet121 does not have it"):
        build_visual(name="timm:densenet121", drop_path=0.1)


def test_drop_path_grows_with_depth():
    encoder = CLIPImageEncoder(name="timm:tiny_swin", drop_path=0.3)
    rates = [getattr(b.drop_path1, "drop_prob", 0.0) for layer in encoder.tower.visual.layers for b in layer.blocks]
    assert rates == pytest.approx([0.3 * i / 8 for i in range(9)], abs=1e-6)


@pytest.mark.parametrize(
    "name, pretrained, wanted",
    [
        ("timm:tf_efficientnet_lite2", "timm", "[127.5, 127.5, 127.5]"),
        ("timm:tf_efficientnet_lite2", "some.pth", "[127.5, 127.5, 127.5]"),
        ("timm:tf_efficientnet_lite2", "", None),
        ("timm:resnet50", "timm", None),
        ("timm:swin_tiny_patch4_window7_224.ms_in1k", "timm", None),
        ("RN50", "openai", None),  # near ImageNet's, which the published recipes use
        ("ViT-B-16-SigLIP", "webli", "[127.5, 127.5, 127.5]"),
        ("RN50", "some.pth", None),  # not known
    ],
)
def test_other_pixel_statistics_are_reported(name, pretrained, wanted, caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_other_pixels(name, pretrained, *IMAGENET)
    assert (f"set MODEL.PIXEL_MEAN {wanted} and MODEL.PIXEL_STD {wanted}" in caplog.text) == (wanted is not None)
    assert bool(caplog.messages) == (wanted is not None)
    caplog.clear()
    warn_of_other_pixels("timm:tf_efficientnet_lite2", "timm", [127.5] * 3, [127.5] * 3)
    assert not caplog.messages
