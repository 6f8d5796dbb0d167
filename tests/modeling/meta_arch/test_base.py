"""What the meta-architectures share, on one that predicts its own input."""

import pytest
import torch
from torch import nn

from mta_clip.config import get_cfg
from mta_clip.modeling import SegmentationModel
from mta_clip.modeling.inference import Scores, SlidingWindow, WholeScores


class Echo(SegmentationModel):
    """Scores are the normalised pixels; losses are what it was given."""

    def __init__(self, **options):
        defaults = {"pixel_mean": [10.0, 20, 30], "pixel_std": [2.0, 4, 5], "size_divisibility": 8}
        super().__init__(**{**defaults, **options})
        self.weight = nn.Parameter(torch.ones(()))

    def losses(self, images, labels):
        self.given = images, labels
        return {"loss": images.sum() * self.weight}

    def predict(self, images):
        self.autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        self.seen = [tuple(image.shape) for image in images]
        return [WholeScores(Scores(self.weight * image)) for image in images]

    def networks(self):
        return [self]


def image(height=9, width=16, value=10.0):
    return torch.full((3, height, width), value)


def test_images_are_normalised_and_padded_with_zeros():
    model = Echo()
    images = model.preprocess([{"image": image().to(torch.uint8)}, {"image": image(5, 20)}])
    assert images.tensor.shape == (2, 3, 16, 24) and images.image_sizes == [(9, 16), (5, 20)]
    assert images.tensor[0, :, 0, 0].tolist() == [0, -2.5, -4]
    assert images.tensor[0, :, 9:].eq(0).all() and images.tensor[1, :, :, 20:].eq(0).all()


def test_scores_have_the_size_of_the_image_or_the_wanted_one():
    model = Echo().eval()
    first, second = model([{"image": image()}, {"image": image(5, 20), "height": 10, "width": 4}])
    assert first["sem_seg"].shape == (3, 9, 16) and second["sem_seg"].shape == (3, 10, 4)
    assert model.seen == [(3, 9, 16), (3, 5, 20)]
    torch.testing.assert_close(first["sem_seg"][:, 3, 3], torch.tensor([0, -2.5, -4]))
    assert not first["sem_seg"].requires_grad


def test_label_maps_only():
    (result,) = Echo(label_maps_only=True).eval()([{"image": image()}])
    assert (
        set(result) == {"labels", "label_scores"} and result["labels"].eq(0).all() and result["labels"].shape == (9, 16)
    )


def test_windows_are_padded_like_images():
    model = Echo(sliding_window=SlidingWindow(size=(9, 12), stride=(9, 4))).eval()
    pixels = torch.randint(256, (3, 9, 16)).float()
    (result,) = model([{"image": pixels}])
    assert model.seen[0] == (3, 9, 12)
    torch.testing.assert_close(result["sem_seg"], (pixels - model.pixel_mean) / model.pixel_std)


@pytest.mark.parametrize(("precision", "autocast"), [("float32", False), ("bfloat16", True)])
def test_precision_of_inference(precision, autocast):
    model = Echo(precision=precision).eval()
    model([{"image": image()}])
    assert model.autocast[0] == autocast and (not autocast or model.autocast[1] == torch.bfloat16)


def test_an_unknown_precision_lists_the_known():
    with pytest.raises(ValueError, match=r"TEST\.PRECISION is 'int8', expected one of float32, bfloat16, float16"):
        Echo(precision="int8")


def test_training_pads_labels_with_the_ignored_value():
    model = Echo(ignore_label=99).train()
    loss = model([{"image": image(), "sem_seg": torch.ones(9, 16, dtype=torch.uint8)}])["loss"]
    images, labels = model.given
    assert images.shape == (1, 3, 16, 16) and labels.shape == (1, 16, 16) and labels.dtype == torch.int64
    assert labels[0, :9].eq(1).all() and labels[0, 9:].eq(99).all()
    loss.backward()
    assert model.weight.grad is not None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({}, r"\(9, 16\), the label map of an image is missing"),
        ({"sem_seg": torch.ones(9, 15), "file_name": "a.png"}, r"\(9, 16\), the label map of a\.png is \(9, 15\)"),
    ],
)
def test_training_needs_a_label_map_of_the_size_of_the_image(extra, message):
    with pytest.raises(ValueError, match=message):
        Echo().train()([{"image": image(), **extra}])


@pytest.mark.parametrize("method", ["losses", "predict", "networks"])
def test_a_subclass_says_the_rest(method):
    model = SegmentationModel(pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, size_divisibility=1)
    arguments = {"losses": (None, None), "predict": (None,), "networks": ()}[method]
    with pytest.raises(NotImplementedError):
        getattr(model, method)(*arguments)


def test_compile_reaches_the_networks():
    model = Echo()
    model.part = nn.Linear(1, 1)
    model.networks = lambda: [model.part]
    model.compile(backend="eager")
    assert model.part._compiled_call_impl and not model._compiled_call_impl


@pytest.mark.parametrize(("dynamic", "evaluation"), [(None, [True]), (False, [False] * 3)])
def test_training_compiles_for_each_size_and_evaluation_for_any(dynamic, evaluation):
    torch.compiler.reset()
    graphs = []  # whether each is for any size

    def backend(graph, inputs):
        graphs.append(any(isinstance(x, torch.SymInt) for x in inputs))
        return graph

    model = Echo()
    model.part = nn.Conv2d(1, 1, 1)
    model.networks = lambda: [model.part]
    model.compile(backend=backend, dynamic=dynamic)
    for training, expected in ((True, [False] * 3), (False, evaluation), (True, [])):
        model.train(training)
        graphs.clear()
        with torch.set_grad_enabled(training):
            for width in (4, 5, 6):
                assert model.part(torch.ones(1, 1, 3, width)).shape[-1] == width
        assert graphs == expected


def test_arguments_of_a_config():
    cfg = get_cfg()
    cfg.TEST.SLIDING_WINDOW.ENABLED, cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY, cfg.TEST.PRECISION = True, True, "bfloat16"
    model = Echo(**SegmentationModel.common_arguments(cfg))
    assert model.sliding_window.size == tuple(cfg.TEST.SLIDING_WINDOW.SIZE) and model.label_maps_only
    assert model.inference_dtype == torch.bfloat16 and model.device.type == "cpu"
    assert model.pixel_mean.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_MEAN)


def test_a_subclass_with_a_vocabulary_takes_names():
    class Vocal(SegmentationModel):
        def set_vocabulary(self, names) -> None:
            pass

    common = {"pixel_mean": [0] * 3, "pixel_std": [1] * 3, "size_divisibility": 1}
    assert Vocal(**common).takes_names and not SegmentationModel(**common).takes_names
