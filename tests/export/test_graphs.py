"""Graphs as PyTorch modules against the models they are made of."""

import pytest
import torch
from exported import NAMES, OTHER_NAMES, check_close, eager, name_tensors, random_images, tiny
from toy_predictor import BrightnessSegmentor

from mta_clip.export.graphs import ClosedGraph, FeatureGraph, NamesGraph, parts_of


@pytest.mark.parametrize(("name", "size"), [("MTACLIP", (64, 72)), ("Mask2Former", (70, 40)), ("TagCLIP", (50, 64))])
@torch.no_grad()
def test_closed_graphs_score_as_their_model(name, size):
    model, _ = tiny(name)
    images = random_images(2, size)
    wanted = eager(model, images)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3  # the images matter
    check_close(ClosedGraph(model)(images), wanted)
    labels = ClosedGraph(model, returns="labels")(images)
    assert labels.dtype == torch.int64 and (labels == wanted.argmax(1)).float().mean() > 0.999


@pytest.mark.parametrize("classifier", ["text", "ensemble"])
@torch.no_grad()
def test_the_classifier_is_that_of_the_model(classifier):
    model, _ = tiny("MTACLIP")
    model.mask_classifier.classifier = classifier
    images = random_images(1, (64, 64))
    check_close(ClosedGraph(model)(images), eager(model, images))


@pytest.mark.parametrize("name", ["MTACLIP", "TagCLIP"])
@torch.no_grad()
def test_one_pass_over_the_images_serves_any_names(name):
    model, _ = tiny(name)
    images = random_images(2, (70, 64))
    features = FeatureGraph(model)(images)
    names_graph = NamesGraph(model)
    for names in (NAMES, OTHER_NAMES):
        model.set_vocabulary(names)
        check_close(names_graph(images, features, name_tensors(model, names)), eager(model, images))


@pytest.mark.parametrize("name", ["MTACLIP", "TagCLIP"])
@torch.no_grad()
def test_a_vocabulary_that_is_set_becomes_part_of_a_closed_graph(name):
    model, _ = tiny(name)
    images = random_images(1, (64, 64))
    model.set_vocabulary(OTHER_NAMES)
    graph = ClosedGraph(model)
    wanted = eager(model, images)
    model.set_vocabulary(None)
    assert wanted.shape[1] == len(OTHER_NAMES)
    check_close(graph(images), wanted)


@torch.no_grad()
def test_channels_are_turned_for_models_that_expect_bgr():
    model, _ = tiny("TagCLIP")
    images = random_images(1, (64, 64))
    check_close(ClosedGraph(model, image_format="BGR")(images), eager(model, images.flip(1)))


def test_each_half_has_only_its_own_weights():
    for name in ("MTACLIP", "TagCLIP"):
        model, _ = tiny(name)
        halves = [{id(p) for p in graph(model).parameters()} for graph in (FeatureGraph, NamesGraph)]
        assert halves[0] and not halves[0] & halves[1]


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="BrightnessSegmentor cannot be exported"):
        parts_of(BrightnessSegmentor())
