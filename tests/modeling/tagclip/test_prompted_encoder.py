import math
import re

import pytest
import torch
from golden_files import compare, golden_params, load
from open_clip.transformer import VisionTransformer
from tagclip_reference import our_weights, reference_encoder
from torch import nn

from mta_clip.modeling.clip import resize_positions
from mta_clip.modeling.tagclip.prompted_encoder import PromptedImageEncoder, VisualPrompts


def tiny_tower(**changes) -> VisionTransformer:
    return VisionTransformer(
        **{
            "image_size": 32,
            "patch_size": 8,
            "width": 24,
            "layers": 3,
            "heads": 2,
            "mlp_ratio": 2.0,
            "output_dim": 12,
            **changes,
        }
    )


def tiny_encoder(**changes) -> PromptedImageEncoder:
    return PromptedImageEncoder(**{"visual": tiny_tower(), "num_prompts": 5, "image_size": (32, 32), **changes})


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_encoder"))
def test_reference_numbers(path):
    config, arrays = load(path)
    encoder = reference_encoder(config, our_weights(arrays, "backbone."))
    seen = {}
    blocks = encoder.visual.transformer.resblocks
    blocks[0].register_forward_pre_hook(lambda module, args: seen.update({"tokens_in": args[0]}))
    for index, block in enumerate(blocks):
        block.register_forward_hook(lambda module, args, out, name=f"tokens_l{index}": seen.update({name: out}))
    for name, module in (("prompt_norm", encoder.prompt_norm), ("ln_post", encoder.visual.ln_post)):
        module.register_forward_hook(lambda module, args, out, name=name: seen.update({f"tokens_{name}": out}))
    with torch.no_grad():
        image_token, patch_map = encoder(arrays["img"])

    stored = [name for name in arrays if name.startswith("tokens_")]
    assert set(stored) == set(seen)
    for name in stored:
        compare("encoder tokens", seen[name], arrays[name], atol=1e-4)
    compare("image token", image_token, arrays["g"], atol=1e-5)
    compare("patch map", patch_map, arrays["patch_map"], atol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_encoder"))
def test_reference_position_table(path):
    config, arrays = load(path)
    state = our_weights(arrays, "backbone.")
    encoder = reference_encoder(config, state)
    source = config["ckpt_grid"]
    source = (source, source) if isinstance(source, int) else tuple(source)
    resized = resize_positions(arrays["pos_ckpt"], source, encoder.grid)
    compare("position table", resized, state["visual.positional_embedding"], atol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_encoder"))
def test_reference_norm_constants(path):
    config, arrays = load(path)
    encoder = reference_encoder(config, our_weights(arrays, "backbone."))
    visual = encoder.visual
    for name in [name for name in arrays if name.startswith("eps/") and name != "eps/in"]:
        part = name.removeprefix("eps/")
        block = re.fullmatch(r"block(\d+)_(ln_\d)", part)
        if block:
            norm = getattr(visual.transformer.resblocks[int(block[1])], block[2])
        else:
            norm = encoder.prompt_norm if part == "prompt_norm" else getattr(visual, part)
        compare("norms on low-variance rows", norm(arrays["eps/in"]), arrays[name], atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (32, 56), (8, 8), (43, 65)])
def test_any_rectangle(size):
    encoder = tiny_encoder().eval()
    image_token, patch_map = encoder(torch.randn(2, 3, *size))
    assert image_token.shape == (2, 12)
    assert patch_map.shape == (2, 12, size[0] // 8, size[1] // 8)
    torch.testing.assert_close(image_token.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(patch_map.norm(dim=1), torch.ones(2, size[0] // 8, size[1] // 8))


def test_without_prompts_it_is_the_tower():
    """With the class embedding once and blocks that never see the prompts, the image token is CLIP's own."""
    tower, images = tiny_tower(), torch.randn(2, 3, 32, 32)
    encoder = tiny_encoder(visual=tower, double_class_embedding=False).eval()

    class BlindToPrompts(nn.Module):
        def __init__(self, block: nn.Module):
            super().__init__()
            self.block = block

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            rest = self.block(torch.cat([tokens[:, :1], tokens[:, 1 + encoder.num_prompts :]], 1))
            return torch.cat([rest[:, :1], tokens[:, 1 : 1 + encoder.num_prompts], rest[:, 1:]], 1)

    with torch.no_grad():
        expected = nn.functional.normalize(tower(images), dim=-1)
        tower.transformer.resblocks = nn.ModuleList(BlindToPrompts(block) for block in tower.transformer.resblocks)
        actual, _ = encoder(images)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_class_embedding_enters_twice_by_default():
    tower, images = tiny_tower(), torch.randn(1, 3, 32, 32)
    twice = tiny_encoder(visual=tower)
    once = tiny_encoder(visual=tower, double_class_embedding=False)
    position = tower.positional_embedding[0]
    torch.testing.assert_close(
        twice._embed(images)[0][0, 0], tower.ln_pre(2 * tower.class_embedding + position), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        once._embed(images)[0][0, 0], tower.ln_pre(tower.class_embedding + position), atol=1e-6, rtol=0
    )


def test_only_prompts_learn_and_all_do():
    encoder = tiny_encoder()
    image_token, patch_map = encoder(torch.randn(2, 3, 32, 32))
    (image_token.sum() + (patch_map * torch.randn_like(patch_map)).sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad == ("prompt" in name), name
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


def test_trainable_parameters_of_vit_b_16():
    """684,288 with 10 prompts per block, 1,513,728 with 100."""
    for num_prompts, expected in ((10, 684_288), (100, 1_513_728)):
        prompts = VisualPrompts(num_prompts=num_prompts, num_blocks=12, width=768, patch_size=16)
        assert sum(p.numel() for p in prompts.parameters()) + 2 * 768 == expected  # + prompt_norm


def test_initial_prompts():
    prompts = VisualPrompts(num_prompts=100, num_blocks=12, width=768, patch_size=16)
    assert 0.0624 < prompts.first.abs().max() <= 0.0625
    assert 0.0624 < prompts.deeper.abs().max() <= 0.0625
    assert prompts.proj.weight.std().item() == pytest.approx(math.sqrt(2 / 768), rel=0.01)


def test_prompt_dropout_differs_per_image():
    prompts = VisualPrompts(num_prompts=8, num_blocks=2, width=32, patch_size=8, dropout=0.5)
    first, second = prompts(1, 2)
    assert not torch.equal(first == 0, second == 0)
    prompts.eval()
    first, second = prompts(1, 2)
    assert torch.equal(first, second)


def test_dropout_is_the_only_difference_between_train_and_eval():
    encoder = tiny_encoder(dropout=0.0)
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(encoder.train()(images)[1], encoder.eval()(images)[1], atol=1e-5, rtol=0)


def test_unfit_towers_are_refused():
    with pytest.raises(ValueError, match="VisionTransformer"):
        tiny_encoder(visual=nn.Linear(2, 2))
    with pytest.raises(ValueError, match="attention"):
        tiny_encoder(visual=tiny_tower(attentional_pool=True, attn_pooler_heads=2))
    with pytest.raises(ValueError, match="NUM_PROMPTS"):
        tiny_encoder(num_prompts=0)
