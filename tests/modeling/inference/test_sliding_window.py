import pytest
import torch

from mta_clip.config import get_cfg
from mta_clip.modeling.inference import SlidingWindow, build_sliding_window, sliding_window
from mta_clip.modeling.inference.sliding_window import window_starts


def pointwise(images):
    """Scores that depend on the pixel alone, so that windows must not change them."""
    return torch.cat([images, images.sum(1, keepdim=True)], 1)


def context(images):
    """Scores that depend on the whole window."""
    return pointwise(images) + images.mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("length", "starts"),
    [(512, [0]), (683, [0, 171]), (938, [0, 426]), (939, [0, 426, 427]), (1024, [0, 426, 512]), (300, [0])],
)
def test_window_starts(length, starts):
    assert window_starts(length, 512, 426) == starts


def test_windows_cover_everything_and_stay_inside():
    for length in range(1, 40):
        for size in (1, 5, 8):
            for stride in range(1, size + 1):
                starts = window_starts(length, size, stride)
                covered = {pixel for start in starts for pixel in range(start, start + min(size, length))}
                assert covered == set(range(length)), (length, size, stride)


@pytest.mark.parametrize("blend", ["uniform", "linear"])
@pytest.mark.parametrize("shape", [(20, 31), (8, 8), (9, 8), (5, 30), (3, 4)])
@pytest.mark.parametrize("stride", [(8, 8), (5, 3), (1, 7)])
def test_pointwise_scores_are_those_of_the_whole_image(shape, stride, blend):
    images = torch.randn(2, 3, *shape)
    scores = SlidingWindow(size=(8, 8), stride=stride, batch=3, blend=blend)(pointwise, images)
    assert scores.shape == (2, 4, *shape) and scores.dtype == torch.float32
    assert torch.allclose(scores, pointwise(images), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 10), (5, 7), (1, 1)])
def test_an_image_within_the_window_equals_whole_image_inference_exactly(shape):
    images = torch.randn(1, 3, *shape)
    assert torch.equal(SlidingWindow(size=(8, 10), stride=(4, 4))(context, images), context(images))


def test_overlaps_are_averaged():
    image = torch.zeros(1, 3, 4, 6)
    values = iter([1.0, 4.0])

    def constant(images):
        return torch.stack([torch.full((1, *images.shape[2:]), next(values)) for _ in images])

    scores = SlidingWindow(size=(4, 4), stride=(4, 2), batch=2)(constant, image)
    assert scores[0, 0, 0].tolist() == [1, 1, 2.5, 2.5, 4, 4]
    values = iter([1.0, 4.0])
    scores = SlidingWindow(size=(4, 4), stride=(4, 2), batch=2, blend="linear")(constant, image)
    # weights 1 2 2 1 | 1 2 2 1, so that at the overlap they are 2 and 1, then 1 and 2
    assert scores[0, 0, 0].tolist() == pytest.approx([1, 1, 2, 3, 4, 4])


def test_batches_of_windows_do_not_change_the_result():
    images = torch.randn(1, 3, 19, 23)
    sizes = []

    def counting(windows):
        sizes.append(windows.shape)
        return context(windows)

    one, many = (SlidingWindow(size=(8, 8), stride=(5, 5), batch=batch)(counting, images) for batch in (1, 5))
    assert torch.allclose(one, many, atol=1e-6)
    assert sizes[:16] == [(1, 3, 8, 8)] * 16 and [shape[0] for shape in sizes[16:]] == [5, 5, 5, 1]


def test_half_precision_scores_are_summed_in_float32():
    images = torch.rand(1, 3, 16, 16)
    scores = SlidingWindow(size=(8, 8), stride=(1, 1))(lambda x: pointwise(x).bfloat16(), images)
    assert torch.allclose(scores, pointwise(images).bfloat16().float(), atol=1e-5)


def test_memory_is_one_map_and_one_batch():
    """Scores of earlier windows are gone when the next batch is predicted."""
    import weakref

    alive = []

    def predict(images):
        assert not any(reference() is not None for reference in alive)
        scores = pointwise(images)
        alive.append(weakref.ref(scores))
        return scores

    SlidingWindow(size=(4, 4), stride=(2, 2), batch=1)(predict, torch.randn(1, 3, 12, 12))
    assert len(alive) == 25


def test_progress_for_many_windows_only(monkeypatch):
    shown = []
    original = sliding_window.tqdm

    def spy(*args, **kwargs):
        shown.append(not kwargs["disable"])
        return original(*args, **{**kwargs, "disable": True})

    monkeypatch.setattr(sliding_window, "tqdm", spy)
    window = SlidingWindow(size=(2, 2), stride=(2, 2), batch=16)
    window(pointwise, torch.randn(1, 3, 4, 4))
    window(pointwise, torch.randn(1, 3, 20, 20))
    assert shown == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": (9, 4)}, r"STRIDE \(9, 4\) is larger than SIZE \(8, 8\)"),
        ({"stride": (0, 4)}, "positive"),
        ({"size": (8,)}, "positive"),
        ({"batch": 0}, "BATCH 0"),
        ({"blend": "gaussian"}, "'gaussian'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindow(**({"size": (8, 8), "stride": (4, 4)} | options))


def test_built_from_config():
    cfg = get_cfg()
    assert build_sliding_window(cfg) is None
    cfg.TEST.SLIDING_WINDOW.ENABLED = True
    cfg.TEST.SLIDING_WINDOW.SIZE = [64, 128]
    cfg.TEST.SLIDING_WINDOW.STRIDE = [32, 100]
    cfg.TEST.SLIDING_WINDOW.BLEND = "linear"
    window = build_sliding_window(cfg)
    assert (window.size, window.stride, window.batch, window.blend) == ((64, 128), (32, 100), 4, "linear")
