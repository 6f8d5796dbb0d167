import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mta_clip.analysis.context_report import draw_usage, format_usage, save_examples, write_usage
from mta_clip.analysis.contexts import THUMBNAIL, analyze_contexts, cut_out, mask_owners
from mta_clip.modeling.outputs import HeadOutput, LayerPrediction

NAMES = ("sky", "road/way", "cat")
STRIDE = 4


def logits_of(classes, num_rows=4):
    """Confident class logits (Q, K); the last row is "no object"."""
    return 20.0 * torch.nn.functional.one_hot(torch.tensor(classes), num_rows).float()


class FakeModel(torch.nn.Module):
    """Four queries on a 32 x 64 canvas of 8 x 16 cells: sky left, road in the middle, road right, and no object.

    The first three choose contexts 1, 0 and 2 for their class; for every other class their favourite is another one.
    """

    def __init__(self, similarity=True, image_size=(32, 64)):
        super().__init__()
        self.similarity, self.image_size = similarity, image_size

    def preprocess(self, batched_inputs):
        tensor = torch.zeros(len(batched_inputs), 3, 32, 64)
        return SimpleNamespace(tensor=tensor, image_sizes=[self.image_size] * len(batched_inputs))

    def predict_masks(self, images):
        count = len(images)
        masks = torch.full((4, 8, 16), -20.0)
        masks[0, :, :4], masks[1, :, 4:8], masks[2, :, 8:], masks[3] = 20.0, 20.0, 20.0, 20.0
        similarity = torch.full((3, count, 4, 4), -0.5)
        for query, (label, context) in enumerate([(0, 1), (1, 0), (1, 2), (3, 0)]):
            similarity[(context + 1) % 3, :, query] = 0.1
            similarity[:, :, query, label] = -0.2
            similarity[context, :, query, label] = 0.9
        layer = LayerPrediction(
            class_logits=logits_of([0, 1, 1, 3]).expand(count, -1, -1),
            mask_embed=torch.eye(4).expand(count, -1, -1),
            similarity=similarity if self.similarity else None,
        )
        return HeadOutput(mask_features=masks.expand(count, -1, -1, -1), layers=[layer])


def batch(count=1, size=(32, 64)):
    return [{"image": torch.full((3, *size), 90, dtype=torch.uint8), "file_name": f"{i}.png"} for i in range(count)]


def test_counts_masks_and_pixels_by_class_and_context():
    usage = analyze_contexts(FakeModel(), [batch(2), batch(1)])
    assert usage.images == 3
    assert usage.masks.tolist() == [[0, 3, 0], [3, 0, 3], [0, 0, 0]]
    assert usage.pixels.tolist() == [[0, 3 * 32, 0], [3 * 32, 0, 3 * 64], [0, 0, 0]]


def test_padding_does_not_count():
    # Of the canvas, 30 x 42 pixels are image: 8 x 11 cells, so three columns are left for the last query.
    usage = analyze_contexts(FakeModel(image_size=(30, 42)), [batch(size=(30, 42))])
    assert usage.pixels.tolist() == [[0, 32, 0], [32, 0, 24], [0, 0, 0]]


def test_the_largest_masks_are_the_examples():
    loader = [batch(size=(32, 64)) for _ in range(3)]
    usage = analyze_contexts(FakeModel(), loader, max_examples=2)
    assert len(usage.largest(0, 1)) == 2 and usage.largest(2, 0) == []
    usage.add(0, 1, np.ones((8, 16), bool), loader[0][0])
    usage.add(0, 1, np.eye(8, 16, dtype=bool), loader[0][0])
    assert [example.pixels for example in usage.largest(0, 1)] == [128, 32]
    assert usage.masks[0, 1] == 5


def test_no_examples_wanted():
    usage = analyze_contexts(FakeModel(), [batch()], max_examples=0)
    assert usage.largest(0, 1) == [] and usage.masks.sum() == 3


def test_models_without_text_and_empty_data_are_refused():
    with pytest.raises(ValueError, match="no text side"):
        analyze_contexts(FakeModel(similarity=False), [batch()])
    with pytest.raises(ValueError, match="no image"):
        analyze_contexts(FakeModel(), [])


def test_owner_is_the_strongest_query_of_the_pixels_own_class():
    masks = torch.tensor([[3.0, 3.0, -9.0], [1.0, 9.0, -9.0], [2.0, 2.0, 2.0]])[:, None]
    # queries 0 and 1 are class 0, query 2 leans to "no object": its class never owns a pixel
    class_logits = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 5.0, 6.0]])
    assert mask_owners(class_logits, masks).tolist() == [[0, 1, -1]]


def test_owner_equals_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(0)
    class_logits, masks = torch.randn(6, 4, generator=generator), torch.randn(6, 5, 7, generator=generator)
    owners = mask_owners(class_logits, masks)
    probs, sigmoid = class_logits.softmax(-1), masks.sigmoid()
    for y, x in np.ndindex(5, 7):
        scores = [sum(probs[q, c] * sigmoid[q, y, x] for q in range(6)) for c in range(3)]
        label = int(np.argmax(scores))
        rivals = [q for q in range(6) if probs[q].argmax() == label]
        expected = max(rivals, key=lambda q: float(probs[q, label] * sigmoid[q, y, x])) if rivals else -1
        assert owners[y, x] == expected


def test_cut_out_shows_the_mask_and_dims_the_rest():
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    region = np.zeros((10, 20), bool)
    region[2:8, 5:10] = True  # rows 8..31, columns 20..39 of the image
    crop = cut_out(image, region)
    assert crop.shape == (THUMBNAIL, THUMBNAIL, 3)
    assert (crop[THUMBNAIL // 2, THUMBNAIL // 2] == 0).all()
    assert (crop[1, THUMBNAIL // 2] > 100).all()


@pytest.fixture
def usage():
    return analyze_contexts(FakeModel(), [batch(2)])


def test_table(usage):
    lines = format_usage(usage, NAMES).splitlines()
    assert lines[-2].split() == ["road/way", "4", "50.0", "0.0", "50.0"]
    assert lines[-1].split() == ["all", "classes", "6", "33.3", "33.3", "33.3"]
    assert not any(line.startswith("cat") for line in lines)


def test_files(usage, tmp_path):
    write_usage(tmp_path / "out" / "contexts.csv", usage, NAMES)
    draw_usage(tmp_path / "out" / "contexts.png", usage, NAMES)
    save_examples(tmp_path / "out" / "examples", usage, NAMES)
    rows = list(csv.DictReader((tmp_path / "out" / "contexts.csv").open()))
    assert len(rows) == 9
    assert rows[3] == {"class": "road/way", "context": "0", "masks": "2", "pixels": "64"}
    assert sorted(path.name for path in (tmp_path / "out" / "examples").iterdir()) == ["0_sky.png", "1_road_way.png"]
    with Image.open(tmp_path / "out" / "contexts.png") as picture:
        assert picture.width > 500
