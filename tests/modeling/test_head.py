"""The head as a whole: reference numbers, an independent implementation, parameter counts, gradients, odd sizes."""

from functools import partial

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_sem_seg_head
from golden_files import compare, golden_params, load
from golden_heads import encoder_maps, mask2former_head, mta_clip_head
from torch.nn import functional as F
from transformers_names import head_state_dict

from mta_clip.config import get_cfg
from mta_clip.modeling.head import MaskTextHead
from mta_clip.modeling.pixel_decoder import MSDeformAttnPixelDecoder
from mta_clip.modeling.transformer_decoder import MultiScaleMaskedTransformerDecoder


def record(head):
    """Collects each decoder layer's output and attention bias during a forward pass."""
    outputs, biases = [], []
    for layer in head.transformer_decoder.layers:
        layer.register_forward_pre_hook(lambda _, args: biases.append(args[-1]))
        layer.register_forward_hook(lambda _, __, output: outputs.append(output))
    return outputs, biases


def compare_attention_masks(biases, arrays):
    for i, bias in enumerate(biases):
        blocked = arrays[f"attn_mask_l{i}"].flatten(2).bool()
        blocked &= ~blocked.all(dim=-1, keepdim=True)  # stored before fully masked rows are re-opened
        assert torch.equal(bias < 0, blocked), f"attention mask of layer {i}"


def compare_semantic_map(output, expected):
    masks = F.interpolate(output.mask_logits(), size=expected.shape[-2:], mode="bilinear", align_corners=False)
    classes = output.final.class_logits.softmax(-1)[..., :-1]
    compare("semantic map", torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid()), expected, atol=1e-4)


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("m2f"))
def test_golden_mask2former(path):
    config, arrays = load(path)
    head = mask2former_head(config, arrays)
    _, biases = record(head)
    with torch.no_grad():
        mask_features, memories = head.pixel_decoder(encoder_maps(arrays))
        output = head.train()(encoder_maps(arrays))
    compare("mask features", mask_features, arrays["mask_features"], atol=1e-4)
    for i, memory in enumerate(memories):
        compare("memories", memory, arrays[f"multi_scale{i}"], atol=1e-4)
    assert len(output.layers) == config["dec_layers"] + 1
    for i, layer in enumerate(output.layers):
        prefix = "" if layer is output.final else f"aux{i}_"
        compare("class logits", layer.class_logits, arrays[f"{prefix}pred_logits"], atol=1e-4)
        compare("mask logits", output.mask_logits(i), arrays[f"{prefix}pred_masks"], atol=5e-4)
    compare_attention_masks(biases, arrays)
    compare_semantic_map(output, arrays["semantic_map"])


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("mta_head"))
def test_golden_mta_clip(path):
    config, arrays = load(path)
    head, text = mta_clip_head(config, arrays), arrays["text_embeddings"]
    outputs, biases = record(head)
    with torch.no_grad():
        mask_features, memories = head.pixel_decoder(encoder_maps(arrays))
        queries = head.transformer_decoder.initial_queries(text, len(mask_features))
        output = head.train()(encoder_maps(arrays), text)
    compare("mask features", mask_features, arrays["mask_features"], atol=1e-4)
    for i, memory in enumerate(memories):
        compare("memories", memory, arrays[f"memory{i}"], atol=1e-4)
    compare("decoder input", queries, arrays["query_in"], atol=1e-4)
    assert len(output.layers) == config["dec_layers"] + 1
    for i, layer in enumerate(output.layers):
        prefix, suffix = ("init_", "") if i == 0 else ("", f"_l{i - 1}")
        compare("class logits", layer.class_logits, arrays[f"{prefix}cls_pred{suffix}"], atol=1e-4)
        compare("similarity", layer.similarity, arrays[f"{prefix}query_pred{suffix}"], atol=1e-4)
        compare("mask logits", output.mask_logits(i), arrays[f"{prefix}mask_pred{suffix}"], atol=5e-4)
    for i, queries in enumerate(outputs):
        compare("decoder queries", queries, arrays[f"decoder_query_l{i}"], atol=1e-4)
    compare_attention_masks(biases, arrays)
    compare_semantic_map(output, arrays["semantic_map"])


def r50_baseline_cfg():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_parameter_count_of_mask2former_r50():
    cfg = r50_baseline_cfg()
    backbone = build_backbone(cfg)
    head = build_sem_seg_head(cfg, backbone.output_shape())
    assert isinstance(head, MaskTextHead)
    counts = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in (("backbone", backbone), *head.named_children())
    }
    assert counts == {"backbone": 23_454_912, "pixel_decoder": 6_035_904, "transformer_decoder": 14_497_431}
    assert sum(counts.values()) == 43_988_247


def tiny_cfg(decoder):
    cfg = get_cfg()
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = decoder
    cfg.MODEL.MASK_FORMER.merge_from_other_cfg(
        type(cfg)({"HIDDEN_DIM": 16, "NHEADS": 2, "DIM_FEEDFORWARD": 24, "NUM_OBJECT_QUERIES": 6, "DEC_LAYERS": 4})
    )
    cfg.MODEL.SEM_SEG_HEAD.merge_from_other_cfg(
        type(cfg)({"NUM_CLASSES": 4, "CONVS_DIM": 16, "MASK_DIM": 12, "NORM_GROUPS": 4, "TRANSFORMER_ENC_LAYERS": 2})
    )
    return cfg


@pytest.mark.parametrize("decoder", ["MultiScaleMaskedTransformerDecoder", "MaskTextDecoder"])
def test_built_from_a_config_gradients_reach_everything(decoder):
    shape = {f"res{i + 2}": ShapeSpec(channels=4 * (i + 1), stride=4 * 2**i) for i in range(4)}
    head = build_sem_seg_head(tiny_cfg(decoder), shape).train()
    features = {  # an image of 75 x 100, map sizes rounded up
        name: torch.randn(2, s.channels, -(-75 // s.stride), -(-100 // s.stride)) for name, s in shape.items()
    }
    for layer in head.pixel_decoder.layers:  # zero at initialisation, where positions have no effect yet
        torch.nn.init.normal_(layer.self_attn.sampling_offsets.weight, std=0.1)
    text = None if decoder != "MaskTextDecoder" else torch.randn(3, 5, 1024)
    output = head(features, text)
    loss = sum(layer.class_logits.square().sum() for layer in output.layers)
    loss = loss + sum(output.mask_logits(i).square().mean() for i in range(len(output.layers)))
    if text is not None:
        loss = loss + sum(layer.similarity[..., 0].sum() for layer in output.layers)
    loss.backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


def transformers_model(**sizes):
    transformers = pytest.importorskip("transformers", minversion="4.50")
    model = transformers.Mask2FormerForUniversalSegmentation(transformers.Mask2FormerConfig(**sizes)).eval()
    for name, parameter in model.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
            torch.nn.init.normal_(parameter, std=0.05)  # zero at initialisation would leave them untested
    return model


def compare_with_transformers(model, head, images):
    """Both heads on the features of the other's backbone."""
    agree = partial(compare, against="transformers")
    head.load_state_dict(head_state_dict(model.state_dict()))
    with torch.no_grad():
        maps = model.model.pixel_level_module.encoder(images).feature_maps
        expected = model(images, output_hidden_states=True)
        features = {f"res{i + 2}": x for i, x in enumerate(maps)}
        mask_features, memories = head.eval().pixel_decoder(features)
        output = head.train()(features)
    agree("mask features", mask_features, expected.pixel_decoder_last_hidden_state, atol=1e-4)
    for memory, other in zip(memories, expected.pixel_decoder_hidden_states, strict=True):
        agree("memories", memory, other, atol=1e-4)
    predictions = [*expected.auxiliary_logits, {"class_queries_logits": expected.class_queries_logits}]
    predictions[-1]["masks_queries_logits"] = expected.masks_queries_logits
    assert len(output.layers) == len(predictions)
    for i, (layer, other) in enumerate(zip(output.layers, predictions, strict=True)):
        agree("class logits", layer.class_logits, other["class_queries_logits"], atol=1e-4)
        agree("mask logits", output.mask_logits(i), other["masks_queries_logits"], atol=1e-3)


def resnet_config(**sizes):
    transformers = pytest.importorskip("transformers")
    return transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"], **sizes)


@pytest.mark.parametrize("size", [(64, 96), (100, 75)])
@pytest.mark.parametrize("mask_dim", [32, 24])
def test_tiny_equals_transformers(size, mask_dim):
    channels = [8, 16, 24, 32]
    backbone = resnet_config(embedding_size=8, hidden_sizes=channels, depths=[1, 1, 1, 1], layer_type="basic")
    model = transformers_model(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=mask_dim,
        hidden_dim=32,
        encoder_feedforward_dim=48,
        encoder_layers=2,
        decoder_layers=6,
        num_attention_heads=4,
        dim_feedforward=64,
        num_queries=7,
        num_labels=5,
        use_auxiliary_loss=True,
        output_auxiliary_logits=True,
    )
    head = MaskTextHead(
        pixel_decoder=MSDeformAttnPixelDecoder(
            input_shape={f"res{i + 2}": ShapeSpec(channels=c, stride=4 * 2**i) for i, c in enumerate(channels)},
            conv_dim=32,
            mask_dim=mask_dim,
            num_layers=2,
            num_heads=4,
            feedforward_dim=48,
        ),
        transformer_decoder=MultiScaleMaskedTransformerDecoder(
            in_channels=32,
            hidden_dim=32,
            num_queries=7,
            num_classes=5,
            num_heads=4,
            feedforward_dim=64,
            num_layers=5,
            mask_dim=mask_dim,
        ),
    )
    compare_with_transformers(model, head, torch.randn(2, 3, *size))


@pytest.mark.parametrize("size", [pytest.param((256, 192), marks=pytest.mark.slow), (100, 75)])
def test_r50_equals_transformers(size):
    model = transformers_model(
        backbone_config=resnet_config(), num_labels=150, use_auxiliary_loss=True, output_auxiliary_logits=True
    )
    shape = {f"res{i + 2}": ShapeSpec(channels=256 * 2**i, stride=4 * 2**i) for i in range(4)}
    head = build_sem_seg_head(r50_baseline_cfg(), shape)
    compare_with_transformers(model, head, torch.randn(1, 3, *size))
