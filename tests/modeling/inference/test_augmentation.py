import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import batch, tiny_model
from torch import nn

from mta_clip.config import get_cfg
from mta_clip.modeling import SegmentationModel
from mta_clip.modeling.inference import AugmentedModel, Scores, WholeScores, progress
from mta_clip.modeling.ops import resizing


class Segmentor(SegmentationModel):
    """Scores that depend on the pixel, on its column and on the size of the image."""

    def __init__(self, **options):
        super().__init__(pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, size_divisibility=1, **options)
        self.seen = []
        self.eval()

    def predict(self, images):
        (image,) = images.tensor
        self.seen.append(tuple(image.shape[1:]))
        columns = torch.linspace(0, 1, image.shape[2]).expand(1, *image.shape[1:])
        scores = torch.cat([image, image[:1] * columns, torch.full_like(columns, image.shape[1])])
        return [WholeScores(Scores(scores, columns.clone()))]


def make_image(height=20, width=30):
    return torch.randint(256, (3, height, width), dtype=torch.uint8)


def wrap(model, **options):
    settings = {"min_sizes": [20], "max_size": 1000, "flip": False} | options
    return AugmentedModel(model=model, **settings)


def test_one_size_and_no_flip_is_plain_inference():
    inputs = [
        {"image": make_image(), "height": 20, "width": 30},
        {"image": make_image(20, 25), "height": 20, "width": 25},
    ]
    plain = [Segmentor()([one])[0]["sem_seg"] for one in inputs]
    for ours, expected in zip(wrap(Segmentor())(inputs), plain, strict=True):
        assert torch.equal(ours["sem_seg"], expected)


def test_one_size_equals_plain_inference_on_the_resized_image_from_file(tmp_path):
    """The loader gives a small image; the original is read again and resized once."""
    original = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)
    Image.fromarray(original).save(tmp_path / "image.png")
    small = np.asarray(Image.fromarray(original).resize((30, 20), Image.BILINEAR))
    inputs = {"image": torch.from_numpy(small.transpose(2, 0, 1).copy()), "height": 40, "width": 60}
    inputs["file_name"] = str(tmp_path / "image.png")
    expected = Segmentor()([inputs])[0]["sem_seg"]
    torch.testing.assert_close(wrap(Segmentor())([inputs])[0]["sem_seg"], expected)
    model = Segmentor()
    wrap(model, min_sizes=[40])([inputs])
    assert model.seen == [(40, 60)]
    del inputs["image"]
    torch.testing.assert_close(wrap(Segmentor())([inputs])[0]["sem_seg"], expected)


def test_deep_images_are_read_from_file_by_their_range(tmp_path):
    deep = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    scores = wrap(Segmentor())([{"file_name": str(tmp_path / "deep.png")}])[0]["sem_seg"]
    np.testing.assert_allclose(scores[0].numpy(), deep / 257, atol=0.51)


def resized_each(model, inputs, sizes, flip):
    """The definition: every score map resized to the output size by the model itself, then averaged."""
    maps = []
    for size in sizes:
        image = Image.fromarray(inputs["image"].permute(1, 2, 0).numpy()).resize(size[::-1], Image.BILINEAR)
        image = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        maps.append(model([{**inputs, "image": image}])[0]["sem_seg"])
        if flip:
            maps.append(model([{**inputs, "image": image.flip(-1)}])[0]["sem_seg"].flip(-1))
    return torch.stack(maps).mean(0)


@pytest.mark.parametrize(
    ("output_size", "flip", "strip_bytes"),
    [
        ((20, 30), False, 5000),
        ((20, 30), True, 1),
        ((37, 51), True, 5000),
        ((37, 51), False, 1 << 26),
        ((7, 90), True, 1 << 26),
        ((7, 90), False, 1),
    ],
)
def test_equals_averaging_at_the_output_size(output_size, flip, strip_bytes, monkeypatch):
    monkeypatch.setitem(resizing._BLOCK_BYTES, "cpu", strip_bytes)
    inputs = {"image": make_image(), "height": output_size[0], "width": output_size[1]}
    expected = resized_each(Segmentor(), inputs, [(10, 15), (40, 60)], flip)
    options = {"min_sizes": [10, 40], "flip": flip}
    scores = wrap(Segmentor(), **options)([inputs])[0]["sem_seg"]
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-3)  # scores up to 255
    (result,) = wrap(Segmentor(label_maps_only=True), **options)([inputs])
    assert result.keys() == {"labels", "label_scores", "trusty"} and result["labels"].dtype == torch.int64
    chosen = expected.gather(0, result["labels"][None])[0]
    torch.testing.assert_close(
        chosen, expected.amax(0), rtol=1e-5, atol=1e-3
    )  # equally good scores may differ in rounding


WINDOWS = ["TEST.SLIDING_WINDOW.ENABLED", True, "TEST.SLIDING_WINDOW.SIZE", [40, 40]]


@pytest.mark.parametrize(
    "overrides", [[], [*WINDOWS, "TEST.SLIDING_WINDOW.STRIDE", [20, 20]]], ids=["whole", "windows"]
)
def test_labels_are_those_of_the_scores(overrides):
    inputs = {**batch(1)[0], "height": 60, "width": 80}
    options = {"min_sizes": [48, 64], "flip": True}
    model = tiny_model(*overrides).eval()
    scores = wrap(model, **options)([inputs])[0]["sem_seg"]
    torch.testing.assert_close(scores, resized_each(model, inputs, [(48, 54), (64, 72)], flip=True), rtol=0, atol=1e-4)
    model.label_maps_only = True
    (result,) = wrap(model, **options)([inputs])
    assert torch.equal(result["labels"], scores.argmax(0))


def test_the_trusty_map_is_averaged():
    inputs = {"image": make_image(), "height": 20, "width": 30}
    trusty = wrap(Segmentor(), flip=True)([inputs])[0]["trusty"]
    torch.testing.assert_close(trusty, torch.full((20, 30), 0.5))  # columns rise to the right, and in the mirror fall


def test_the_vocabulary_is_the_models():
    model = tiny_model().eval()
    wrapped = wrap(model, min_sizes=[48])
    wrapped.set_vocabulary(["cat", "dog"])
    assert wrapped(batch(1))[0]["sem_seg"].shape[0] == 2
    wrapped.set_vocabulary(None)
    assert model.vocabulary is None


def test_progress(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # in files there are no bars
    options = {"min_sizes": [10, 20], "flip": True}
    wrap(Segmentor(), **options)([{"image": make_image()}])
    assert "1/4" in (text := capsys.readouterr().err) and "augmented image" in text
    monkeypatch.setattr(progress, "DELAY", 1000)
    wrap(Segmentor(), **options)([{"image": make_image()}])
    assert capsys.readouterr().err == ""


def test_mean_over_sizes_and_flips():
    model = Segmentor()
    inputs = {"image": make_image(), "height": 20, "width": 30}
    scores = wrap(model, min_sizes=[10, 20, 40], flip=True)([inputs])[0]["sem_seg"]
    assert model.seen == [(10, 15)] * 2 + [(20, 30)] * 2 + [(40, 60)] * 2
    assert scores.shape == (5, 20, 30)
    assert torch.allclose(scores[4], torch.full((20, 30), 70 / 3))
    assert scores.dtype == torch.float32


def test_flipped_scores_are_flipped_back():
    inputs = {"image": make_image(), "height": 20, "width": 30}
    scores = wrap(Segmentor(), flip=True)([inputs])[0]["sem_seg"]
    image = inputs["image"].float()
    assert torch.allclose(scores[:3], image)
    assert torch.allclose(scores[3], image[0] * 0.5, atol=1e-4)  # mean of a column's weight and its mirror image's


def test_long_side_is_bounded_and_output_size_defaults_to_the_input():
    model = Segmentor()
    (result,) = wrap(model, min_sizes=[40], max_size=45)([{"image": make_image()}])
    assert model.seen == [(30, 45)] and result["sem_seg"].shape == (5, 20, 30)


def test_errors():
    with pytest.raises(ValueError, match="MIN_SIZES"):
        wrap(Segmentor(), min_sizes=[])

    with pytest.raises(ValueError, match="which a Linear does not give: derive the model from"):
        wrap(nn.Linear(1, 1))


def test_built_from_config():
    cfg = get_cfg()
    cfg.TEST.AUG.MIN_SIZES = (256, 384)
    cfg.TEST.AUG.MAX_SIZE = 999
    cfg.TEST.AUG.FLIP = False
    model = Segmentor()
    wrapped = AugmentedModel(cfg, model)
    assert wrapped.model is model
    assert (wrapped.min_sizes, wrapped.max_size, wrapped.flip) == ((256, 384), 999, False)


def test_sizes_as_ratios_of_the_test_size():
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.TEST.AUG.RATIOS = 512, [0.5, 0.75, 1.0, 1.75]
    assert AugmentedModel(cfg, Segmentor()).min_sizes == (256, 384, 512, 896)
    cfg.TEST.AUG.RATIOS = [0.5, 0]
    with pytest.raises(ValueError, match=r"RATIOS is \[0.5, 0\]; expected positive"):
        AugmentedModel(cfg, Segmentor())
    cfg.INPUT.MIN_SIZE_TEST = 0
    with pytest.raises(ValueError, match="which is 0: set it, or set TEST"):
        AugmentedModel(cfg, Segmentor())
