import pytest
import torch
from torch.nn import functional as F

from mta_clip.modeling.outputs import HeadOutput, LayerPrediction


def layer(**options) -> LayerPrediction:
    return LayerPrediction(class_logits=torch.zeros(2, 3, 5), mask_embed=torch.randn(2, 3, 4), **options)


def test_mask_logits_are_products_with_the_features_of_the_asked_layer():
    output = HeadOutput(mask_features=torch.randn(2, 4, 6, 7), layers=[layer(), layer()])
    assert output.final is output.layers[1]
    for index, prediction in enumerate(output.layers):
        logits = output.mask_logits(index)
        assert logits.shape == (2, 3, 6, 7)
        expected = (output.mask_features[1, :, 2, 5] * prediction.mask_embed[1, 2]).sum()
        torch.testing.assert_close(logits[1, 2, 2, 5], expected)
    assert torch.equal(output.mask_logits(), output.mask_logits(1))


def test_similarities_are_cosines_for_one_text_and_for_one_per_image():
    masks, text = torch.randn(2, 3, 8), 5 * torch.randn(4, 6, 8)
    prediction = layer(aligned_mask_embed=masks)
    similarity = prediction.similarity_to(text)
    assert similarity.shape == (4, 2, 3, 6)
    torch.testing.assert_close(similarity[1, 0, 2, 5], F.cosine_similarity(masks[0, 2], text[1, 5], dim=0))
    per_image = torch.stack([text, -text], dim=1)
    torch.testing.assert_close(prediction.similarity_to(per_image), similarity * torch.tensor([1.0, -1])[:, None, None])


def test_heads_without_text_say_what_has_some():
    with pytest.raises(ValueError, match=r"MaskTextDecoder.*MODEL\.MTA\.SIMILARITY_WEIGHT above 0"):
        layer().similarity_to(torch.zeros(1, 2, 8))
