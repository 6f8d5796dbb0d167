import re
from pathlib import Path

import pytest
import torch
from golden_files import compare, golden_params, load
from tagclip_reference import our_weights, reference_head
from torch.nn import functional as F

from mta_clip.modeling.tagclip.labels import UNLABELLED, fill_pseudo_labels
from mta_clip.modeling.tagclip.losses import TrustyCriterion
from mta_clip.modeling.tagclip.trusty_head import RelationshipDescriptor, TrustyHead
from mta_clip.modeling.tagclip.trusty_scores import TRUSTY_EVAL, trusty_scores

README = Path(__file__).parents[3] / "configs" / "README.md"


def resize(logits: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)


def reference(path):
    config, arrays = load(path)
    return config, arrays, reference_head(config, our_weights(arrays, "decode_head."))


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_head"))
@pytest.mark.parametrize("rows", ["all", "train"])
def test_reference_queries_and_masks(path, rows):
    config, arrays, head = reference(path)
    text = arrays["text"] if rows == "all" else arrays["text"][config["seen"]]
    memory = arrays["patch_map"].flatten(2).transpose(1, 2)
    with torch.no_grad():
        queries = head.relationship_descriptor(arrays["g"], torch.cat([text, head.trusty_token]))
        compare("decoder queries", queries, arrays[f"q0_{rows}"], atol=1e-4)
        for index, layer in enumerate(head.decoder.layers):
            inputs = []
            hook = layer.cross_attn.register_forward_pre_hook(lambda module, args, into=inputs: into.extend(args))
            queries = layer(queries, memory)
            hook.remove()
            compare("decoder queries", queries, arrays[f"q_{rows}_l{index}"], atol=1e-4)
            scores = layer.cross_attn.scores(*inputs)
            compare("attention scores", scores, arrays[f"attn_{rows}_l{index}"], atol=1e-4)
        masks, trusty = head(arrays["g"], arrays["patch_map"], text)
    compare("mask logits, tokens", masks, arrays[f"masks_tok_{rows}"], atol=1e-4)
    compare("trusty logits, tokens", trusty, arrays[f"trusty_tok_{rows}"], atol=1e-4)
    compare("mask logits", resize(masks, config["img_size"]), arrays[f"masks_{rows}"], atol=1e-4)
    compare("trusty logits", resize(trusty, config["img_size"]), arrays[f"trusty_{rows}"], atol=1e-4)


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_head"))
def test_reference_scores(path):
    config, arrays, head = reference(path)
    with torch.no_grad():
        masks, trusty = head(arrays["g"], arrays["patch_map"], arrays["text"])
    probs, unseen_prob = (resize(x, config["img_size"]).sigmoid() for x in (masks, trusty))
    seen = torch.zeros(config["num_classes"], dtype=torch.bool)
    seen[config["seen"]] = True
    for weighting in TRUSTY_EVAL:
        for suffix, gamma in (("g01", 0.1), ("g00", 0.0)):
            scores = trusty_scores(probs, unseen_prob, seen, gamma=gamma, weighting=weighting)
            compare("scores", scores, arrays[f"score_{weighting}_{suffix}"], atol=2e-5)


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_head"))
def test_reference_pseudo_labels(path):
    config, arrays, head = reference(path)
    masks, trusty = head(arrays["g"], arrays["patch_map"], arrays["text"])
    masks, trusty = resize(masks, config["img_size"]), resize(trusty, config["img_size"])
    assert (arrays["pseudo/gt_in"] == UNLABELLED).any()
    labels = fill_pseudo_labels(arrays["pseudo/gt_in"], masks, config["unseen"])
    assert torch.equal(labels, arrays["pseudo/gt_out"])

    target = torch.isin(arrays["pseudo/gt_unmasked"], torch.tensor(config["unseen"]))
    losses = TrustyCriterion()(masks, labels, trusty, target)
    for ours, official in (("loss_mask", "mask"), ("loss_dice", "dice"), ("loss_trusty", "disc")):
        compare("pseudo-label losses", losses[ours], arrays[f"pseudo/loss_{official}"], atol=1e-6, rtol=1e-4)


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("tag_head"))
def test_reference_norm_constants(path):
    _, arrays, head = reference(path)
    for name in [name for name in arrays if name.startswith("eps/") and name != "eps/in"]:
        layer, norm = re.fullmatch(r"eps/layer(\d+)_(norm\d)", name).groups()
        norm = getattr(head.decoder.layers[int(layer)], norm)
        compare("norms on low-variance rows", norm(arrays["eps/in"]), arrays[name], atol=1e-4)


def inputs(num_classes: int, dim: int = 12, grid: tuple[int, int] = (3, 5), batch: int = 2):
    token = F.normalize(torch.randn(batch, dim), dim=1)
    patches = F.normalize(torch.randn(batch, dim, *grid), dim=1)
    return token, patches, F.normalize(torch.randn(num_classes, dim), dim=1)


def test_any_rectangle_and_number_of_classes():
    head = TrustyHead(dim=12, num_heads=3)
    for num_classes, grid in ((1, (1, 1)), (6, (5, 5)), (9, (6, 4))):
        masks, trusty = head(*inputs(num_classes, grid=grid))
        assert masks.shape == (2, num_classes, *grid) and trusty.shape == (2, 1, *grid)
    masks, trusty = TrustyHead(dim=12, num_heads=3, trusty_token=False)(*inputs(4))
    assert masks.shape == (2, 4, 3, 5) and trusty is None


def test_permuted_classes_permute_masks():
    head = TrustyHead(dim=12, num_heads=3).eval()
    token, patches, text = inputs(5)
    order = torch.tensor([2, 4, 0, 1, 3])
    masks, trusty = head(token, patches, text)
    permuted, same = head(token, patches, text[order])
    torch.testing.assert_close(permuted, masks[:, order], atol=1e-5, rtol=0)
    torch.testing.assert_close(same, trusty, atol=1e-5, rtol=0)


def test_parameter_counts():
    """11,036,160 as released; 8,407,040 when what never gets a gradient is left out.

    Left out are 2,628,096 of the last layer (v, proj 525,312; feed-forward 2,099,712; three norms 3,072) and the
    unused first norm of the layer before it, 1,024.
    """

    def count(**options):
        return sum(p.numel() for p in TrustyHead(dim=512, num_heads=8, **options).parameters())

    assert count(keep_unused=True) == 11_036_160
    assert count() == 8_407_040 == 11_036_160 - 2_628_096 - 1_024
    # with the visual prompts of ViT-B/16 (see test_image_encoder.py): 10 for VOC 2012, 100 for COCO-Stuff
    assert count(keep_unused=True) + 684_288 == 11_720_448
    assert count(keep_unused=True) + 1_513_728 == 12_549_888
    assert count() + 684_288 == 9_091_328
    assert count() + 1_513_728 == 9_920_768


def test_parameter_counts_of_zegclip():
    """Ours, and the 13.8 and 14.6 million that ZegCLIP's README reports, which include what never gets a gradient.

    That is, as in TagCLIP, all but the scores of the last layer, and in each layer a self-attention with its norm.
    """

    def count(**options):
        head = TrustyHead(dim=512, num_heads=8, self_attention=False, trusty_token=False, **options)
        return sum(p.numel() for p in head.parameters())

    self_attention = sum(p.numel() for p in torch.nn.MultiheadAttention(512, 8).parameters())
    text = README.read_text()
    for prompts, ours, official in ((684_288, 8_039_168, 13_821_184), (1_513_728, 8_868_608, 14_650_624)):
        assert count() + prompts == ours
        assert count(keep_unused=True) + 3 * self_attention + prompts == official
        assert f"{ours:,}" in text and f"{official:,}" in text


@pytest.mark.parametrize(
    ("terms", "concatenate"),
    [
        ("qms_q", lambda q, s: torch.cat([q * s, q], dim=2)),
        ("s_q", lambda q, s: torch.cat([s, q], dim=2)),
        ("q", lambda q, s: q),
    ],
)
def test_descriptor_terms(terms, concatenate):
    descriptor = RelationshipDescriptor(dim=12, terms=terms)
    image_token, _, text = inputs(5)
    both = text.repeat(2, 1, 1), image_token[:, None].repeat(1, 5, 1)
    torch.testing.assert_close(descriptor(image_token, text), descriptor.proj(concatenate(*both)))
    head = TrustyHead(dim=12, num_heads=3, descriptor=terms)
    assert head.relationship_descriptor.proj.in_features == 12 * len(terms.split("_"))


@pytest.mark.parametrize("terms", ["", "s", "q_m", "q_q", "qms q"])
def test_bad_descriptor_terms(terms):
    with pytest.raises(ValueError, match=f"MODEL.TAGCLIP.DESCRIPTOR is '{terms}'; expected"):
        TrustyHead(dim=12, num_heads=3, descriptor=terms)


def test_without_self_attention_classes_do_not_depend_on_each_other():
    token, patches, text = inputs(5)
    for self_attention in (True, False):
        head = TrustyHead(dim=12, num_heads=3, self_attention=self_attention).eval()
        masks, trusty = head(token, patches, text)
        fewer, same = head(token, patches, text[:3])
        assert torch.allclose(fewer, masks[:, :3], atol=1e-6) != self_attention
        assert torch.allclose(same, trusty, atol=1e-6) != self_attention


def test_every_parameter_learns():
    head = TrustyHead(dim=12, num_heads=3)
    masks, trusty = head(*inputs(4))
    ((masks * torch.randn_like(masks)).sum() + (trusty * torch.randn_like(trusty)).sum()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
    full = TrustyHead(dim=12, num_heads=3, keep_unused=True)
    masks, trusty = full(*inputs(4))
    (masks.sum() + trusty.sum()).backward()
    without = {name for name, parameter in full.named_parameters() if parameter.grad is None}
    assert without == set(full.state_dict()) - set(head.state_dict())


def test_initial_ranges():
    head = TrustyHead(dim=512, num_heads=8, keep_unused=True)
    layer = head.decoder.layers[0]
    for parameter, bound in (
        (head.trusty_token, 0.108148),
        (head.relationship_descriptor.proj.weight, 0.0625),
        (layer.cross_attn.q.weight, 0.0765466),
        (layer.linear1.weight, 0.0484123),
        (layer.self_attn.in_proj_weight, 0.0541266),
    ):
        assert 0.98 * bound < parameter.abs().max() < 1.00001 * bound
    assert not head.relationship_descriptor.proj.bias.any() and not layer.self_attn.in_proj_bias.any()
