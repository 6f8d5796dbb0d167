import dataclasses

import numpy as np
import pytest

from mta_clip.app.explanation import explain_region, region_at


def test_a_region_is_connected():
    labels = np.array([[0, 0, 1, 0], [1, 0, 1, 0]])
    assert np.array_equal(region_at(labels, 0.3, 0.2), [[1, 1, 0, 0], [0, 1, 0, 0]])
    assert np.array_equal(region_at(labels, 1, 1), [[0, 0, 0, 1], [0, 0, 0, 1]])
    assert region_at(labels, 0.6, 0).sum() == 2


def test_masks_of_a_region(mta, photo):
    result, queries = mta(photo, scores=False), mta.queries(photo)
    region = region_at(result.labels, 0.5, 0.5)
    label = int(result.labels[region][0])
    text = explain_region(result, region, queries.votes(region, label), queries.num_contexts)
    assert result.class_names[label] in text and f"{100 * region.mean():.1f} % of the image" in text
    assert 1 <= text.count("<li>") <= 4 and text.count("(of 2)") == text.count("<li>") == text.count("<dt>text</dt>")
    assert "trusty" not in text


def test_other_models_say_what_they_know(toy, photo):
    result = toy(photo)
    region = region_at(result.labels, 0.9, 0.5)
    text = explain_region(result, region, None)
    assert "bright thing" in text and "75.0 % of the image" in text and "<li>" not in text
    assert f"trusty map {result.trusty[region].mean():.2f}" in text


def test_no_mask_supports_the_class(toy, photo):
    result = toy(photo)
    assert "No mask supports" in explain_region(result, result.labels == 1, [])


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", 'a "b" & c'])
def test_names_are_text(toy, photo, name):
    result = dataclasses.replace(toy(photo), class_names=("dark", name))
    assert name not in explain_region(result, result.labels == 1, None)
