import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import sem_seg_postprocess
from golden_files import compare, golden_params, load

from mta_clip.config import get_cfg
from mta_clip.modeling.inference import MaskClassifier, classify_masks, semantic, semantic_inference, semantic_labels
from mta_clip.modeling.inference.semantic import argmax_classes
from mta_clip.modeling.outputs import LayerPrediction


def plain(class_probs, mask_logits, size):
    """The definition: every mask upsampled, then combined."""
    masks = F.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False).sigmoid()
    return torch.einsum("bqc,bqhw->bchw", class_probs, masks)


def make_inputs(h=8, w=12, images=2, queries=5, classes=4):
    torch.manual_seed(1)
    return torch.rand(images, queries, classes), 4 * torch.randn(images, queries, h, w)


@pytest.fixture(params=[1, 8000, 1 << 21], ids=["row by row", "blocks", "at once"])
def block_bytes(request, monkeypatch):
    monkeypatch.setitem(semantic._BLOCK_BYTES, "cpu", request.param)


@pytest.mark.parametrize("size", [(32, 48), (8, 12), (33, 47), (100, 13), (4, 6), (1, 1)])
def test_equals_the_definition_at_any_size(size, block_bytes):
    class_probs, mask_logits = make_inputs()
    expected = plain(class_probs, mask_logits, size)
    scores = semantic_inference(class_probs, mask_logits, size)
    assert scores.shape == (2, 4, *size) and scores.dtype == torch.float32
    assert torch.allclose(scores, expected, atol=1e-5)
    labels = semantic_labels(class_probs, mask_logits, size)
    assert labels.dtype == torch.int64 and torch.equal(labels, scores.argmax(1))


@pytest.mark.parametrize("crop", [(32, 48), (30, 41), (1, 1)])
@pytest.mark.parametrize("output_size", [(30, 41), (61, 90), (11, 10), (200, 3)])
def test_crop_and_resize_equal_detectron2s_postprocessing(crop, output_size, block_bytes):
    class_probs, mask_logits = make_inputs()
    whole = plain(class_probs, mask_logits, (32, 48))
    expected = torch.stack([sem_seg_postprocess(image, crop, *output_size) for image in whole])
    scores = semantic_inference(class_probs, mask_logits, (32, 48), crop, output_size)
    assert torch.allclose(scores, expected, atol=1e-5)
    assert torch.equal(semantic_labels(class_probs, mask_logits, (32, 48), crop, output_size), scores.argmax(1))


def test_padding_does_not_reach_the_output():
    class_probs, mask_logits = make_inputs()
    changed = mask_logits.clone()
    changed[..., 10:] = torch.nan  # column 10 is first read by upsampled column 38
    scores = [
        semantic_inference(class_probs, logits, (32, 48), (32, 38), (20, 20)) for logits in (mask_logits, changed)
    ]
    assert torch.equal(*scores)


def test_one_pixel_by_hand():
    class_probs = torch.tensor([[[2.0, 0, 0], [0, 1, 3]]]).softmax(-1)[..., :-1]
    mask_logits = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    scores = semantic_inference(class_probs, mask_logits, (1, 1))
    assert scores.flatten().tolist() == pytest.approx([0.4305, 0.1538], abs=1e-4)


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("m2f"))
def test_mask2former_semantic_map(path):
    config, arrays = load(path)
    class_probs = classify_masks(arrays["pred_logits"])
    scores = semantic_inference(class_probs, arrays["pred_masks"], tuple(config["image_size"]))
    compare("semantic map from stored predictions", scores, arrays["semantic_map"], atol=1e-5)


def test_bfloat16_masks_stay_close():
    class_probs, mask_logits = make_inputs(queries=40)
    expected = plain(class_probs, mask_logits, (32, 48))
    scores = semantic_inference(class_probs, mask_logits.bfloat16(), (32, 48))
    assert scores.dtype == torch.float32
    assert torch.equal(semantic_labels(class_probs, mask_logits.bfloat16(), (32, 48)), scores.argmax(1))
    assert ((scores - expected).abs() / expected.amax()).max() < 0.02


def test_works_on_parameters_without_a_graph():
    class_probs, mask_logits = make_inputs()
    assert not semantic_inference(class_probs.requires_grad_(), mask_logits.requires_grad_(), (9, 9)).requires_grad


def test_a_crop_larger_than_the_map_is_refused():
    class_probs, mask_logits = make_inputs()
    with pytest.raises(ValueError, match=r"\(33, 48\)"):
        semantic_inference(class_probs, mask_logits, (32, 48), crop=(33, 48))


@pytest.mark.parametrize("num_classes", [1, 2, 255, 256, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16])
def test_argmax_classes_takes_the_first_of_equals(num_classes, dtype):
    scores = torch.randint(20, (num_classes, 7, 5)).to(dtype)
    assert torch.equal(argmax_classes(scores), scores.argmax(0))
    assert argmax_classes(torch.zeros(num_classes, 3, dtype=dtype)).tolist() == [0, 0, 0]


def test_argmax_classes_tells_neighbouring_numbers_apart():
    scores = torch.tensor([[1e-30, -2.0], [1e-30, -1.0], [0.0, -1.5]])
    scores[1, 0] = scores[0, 0].nextafter(torch.tensor(1.0))
    assert argmax_classes(scores).tolist() == [1, 1]


def test_linear_drops_no_object_after_the_softmax():
    logits = torch.tensor([[[2.0, 0.0, 0.0]]])
    assert torch.allclose(classify_masks(logits), logits.softmax(-1)[..., :2])


def test_text_sums_over_contexts():
    similarity = torch.rand(3, 2, 5, 4) * 2 - 1
    probabilities = classify_masks(torch.zeros(2, 5, 9), similarity, classifier="text", temperature=0.1)
    prompts = (similarity / 0.1).exp()
    expected = prompts.sum(0) / prompts.sum((0, -1)).unsqueeze(-1)
    assert torch.allclose(probabilities, expected[..., :-1], atol=1e-6)


def test_text_agrees_with_the_denominator_of_the_loss():
    """With one context, -log of the probability is L_sim."""
    similarity, labels = torch.rand(1, 2, 5, 4), torch.randint(3, (2, 5))
    probabilities = classify_masks(torch.zeros(2, 5, 4), similarity, classifier="text", temperature=0.5)
    from mta_clip.modeling.criterion import SimilarityLoss

    losses = SimilarityLoss(kind="MixNeg", temperature=0.5)(similarity, labels)
    assert torch.allclose(-probabilities.gather(-1, labels[..., None])[..., 0].log(), losses, atol=1e-5)


def test_ensemble_lies_between_its_ends():
    logits, similarity = torch.randn(2, 5, 4), torch.rand(3, 2, 5, 4)
    ends = [classify_masks(logits, similarity, classifier=name) for name in ("linear", "text")]
    for weight, end in zip((0.0, 1.0), ends, strict=True):
        ensemble = classify_masks(logits, similarity, classifier="ensemble", ensemble_weight=weight)
        assert torch.allclose(ensemble, end, atol=1e-6)
    half = classify_masks(logits, similarity, classifier="ensemble")
    log_ratio = (half[..., 0] / half[..., 1]).log()
    expected = sum((end[..., 0] / end[..., 1]).log() for end in ends) / 2
    assert torch.allclose(log_ratio, expected, atol=1e-4)


def test_bad_settings_are_refused():
    logits, similarity = torch.zeros(1, 2, 4), torch.zeros(3, 1, 2, 6)
    with pytest.raises(ValueError, match="'clip'"):
        classify_masks(logits, classifier="clip")
    with pytest.raises(ValueError, match="predicts no similarity"):
        classify_masks(logits, classifier="text")
    with pytest.raises(ValueError, match="4 rows, the similarity 6"):
        classify_masks(logits, similarity, classifier="ensemble")
    with pytest.raises(ValueError, match="'clip'"):
        MaskClassifier(classifier="clip")
    with pytest.raises(ValueError, match="got 0 and"):
        MaskClassifier(temperature=0)


def test_mask_classifier_follows_config_and_names():
    cfg = get_cfg()
    cfg.MODEL.MTA.CLASSIFIER = "ensemble"
    cfg.MODEL.MTA.TEMPERATURE, cfg.MODEL.MTA.TEXT_TEMPERATURE = 1.0, 0.05
    classifier = MaskClassifier(cfg)
    assert classifier.temperature == 0.05  # a loss on raw cosines leaves nothing to follow
    cfg.MODEL.MTA.TEMPERATURE = 0.2
    assert MaskClassifier(cfg).temperature == 0.2
    embed = torch.randn(1, 3, 8)
    prediction = LayerPrediction(torch.randn(1, 3, 5), torch.randn(1, 3, 4), torch.rand(2, 1, 3, 5), embed)
    assert classifier(prediction).shape == (1, 3, 4)
    text = torch.randn(2, 8, 8)
    probabilities = classifier(prediction, text)
    assert probabilities.shape == (1, 3, 7)
    order = torch.tensor([3, 1, 0, 2, 4, 6, 5, 7])
    assert torch.allclose(classifier(prediction, text[:, order]), probabilities[..., order[:-1]], atol=1e-6)
    flat = classifier(prediction, text, temperature=1e6)
    assert flat.flatten().tolist() == pytest.approx([1 / 8] * 21, abs=1e-4) and math.isfinite(flat.sum())
