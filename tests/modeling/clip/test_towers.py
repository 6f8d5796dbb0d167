"""Building open_clip models: weights from files, tags and nothing; errors that say what to do."""

import pickle

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mta_clip.modeling.clip.towers import QuickGELU, build_clip


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A tiny model with weights of its own."""
    return build_clip(name="mta-tiny")


def assert_same_weights(model: nn.Module, other: nn.Module) -> None:
    state, expected = model.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["mta-tiny", "mta-tiny-vit"])
def test_tiny_models_compare_images_with_texts(name):
    model = build_clip(name=name, quick_gelu=True).eval()
    tokens = open_clip.get_tokenizer(name)(["red disc", "blue ring"])
    image, text, _ = model(torch.randn(3, 3, 96, 96), tokens)
    assert tokens.shape == (2, 32)
    assert image.shape == (3, 128) and text.shape == (2, 128)
    assert sum(p.numel() for p in model.visual.parameters()) < 5e6


def test_quick_gelu_equals_open_clips():
    x = torch.randn(100, dtype=torch.float64, requires_grad=True)
    ours, theirs = QuickGELU()(x), open_clip.transformer.QuickGELU()(x)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(100, dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, weights)[0] for y in (ours, theirs)))


def test_quick_gelu_changes_the_activation():
    kinds = {
        quick: {type(m).__name__ for m in build_clip(name="mta-tiny", quick_gelu=quick).modules()} for quick in (0, 1)
    }
    assert "QuickGELU" in kinds[True] and "GELU" not in kinds[True]
    assert "GELU" in kinds[False] and "QuickGELU" not in kinds[False]


def test_loads_open_clip_checkpoints(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "plain.pt")
    torch.save(
        {"state_dict": {"module." + k: v for k, v in trained.state_dict().items()}, "epoch": 3}, tmp_path / "run.pth"
    )
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    for file in ("plain.pt", "run.pth", "weights.safetensors"):
        assert_same_weights(build_clip(name="mta-tiny", pretrained=str(tmp_path / file)), trained)


class _Archive(nn.Module):
    """Parameters under the names of a state dict, as OpenAI's archives have them."""

    def forward(self, x):
        return x


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_loads_openai_torchscript_archives(trained, tmp_path):
    root = _Archive()
    state = {name: value.half() if value.is_floating_point() else value for name, value in trained.state_dict().items()}
    for name, value in {**state, "input_resolution": torch.tensor(96), "vocab_size": torch.tensor(49408)}.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, _Archive())
            module = module._modules[part]
        module.register_buffer(leaf, value)
    torch.jit.save(torch.jit.trace(root, torch.zeros(1)), tmp_path / "RN.pt")
    loaded = build_clip(name="mta-tiny", pretrained=str(tmp_path / "RN.pt"))
    assert all(value.dtype in (torch.float32, torch.int64) for value in loaded.state_dict().values())
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, trained.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_downloads_tags(trained, tmp_path, monkeypatch, caplog):
    torch.save(trained.state_dict(), tmp_path / "hub.pt")
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {"hf_hub": "x/y/", "quick_gelu": True})
    monkeypatch.setattr(open_clip, "download_pretrained", lambda config: str(tmp_path / "hub.pt"))
    assert_same_weights(build_clip(name="mta-tiny", pretrained="openai", quick_gelu=True), trained)
    assert not caplog.records
    build_clip(name="mta-tiny", pretrained="openai", quick_gelu=False)
    assert "MODEL.CLIP.QUICK_GELU True" in caplog.text


def test_failed_download_says_what_to_do(monkeypatch):
    def no_network(config):
        raise ConnectionError("name resolution failed")

    monkeypatch.setattr(open_clip, "download_pretrained", no_network)
    with pytest.raises(OSError, match="name resolution failed") as error:
        build_clip(name="RN50", pretrained="openai")
    for hint in ("MODEL.CLIP.PRETRAINED", "local file", "cache folder", "yfcc15m", "timm/resnet50_clip.openai"):
        assert hint in str(error.value)


def test_unknown_architecture_tag_and_file(tmp_path):
    with pytest.raises(ValueError, match=r"no architecture 'vit-b16'; did you mean .*ViT-B-16"):
        build_clip(name="vit-b16")
    with pytest.raises(
        ValueError, match=r"neither a file nor a tag of RN50; did you mean openai\? Its tags: openai, yfcc"
    ):
        build_clip(name="RN50", pretrained="open-ai")
    with pytest.raises(ValueError, match=r"tag of mta-tiny\. Its tags: none"):
        build_clip(name="mta-tiny", pretrained="openai")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*absent\.pt"):
        build_clip(name="RN50", pretrained=str(tmp_path / "absent.pt"))


class _Harmful:
    def __reduce__(self):
        return print, ("code of the file ran",)


def test_refuses_unfit_files(trained, tmp_path, capsys):
    (tmp_path / "text.pt").write_text("<html>not found</html>")
    (tmp_path / "text.safetensors").write_text("<html>not found</html>")
    torch.save(trained.visual.state_dict(), tmp_path / "visual.pt")
    torch.save({}, tmp_path / "empty.pt")
    with (tmp_path / "harmful.pt").open("wb") as file:
        pickle.dump({"state_dict": _Harmful()}, file, protocol=2)
    for name in ("text.pt", "text.safetensors", "visual.pt", "empty.pt", "harmful.pt"):
        with pytest.raises(ValueError, match=f"{name} does not hold weights of mta-tiny"):
            build_clip(name="mta-tiny", pretrained=str(tmp_path / name))
    assert "ran" not in capsys.readouterr().out
