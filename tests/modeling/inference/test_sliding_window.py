import weakref
from collections import Counter

import pytest
import torch

from mta_clip.config import get_cfg
from mta_clip.modeling.inference import Scores, SlidingWindow, WholeScores, WindowScores, build_sliding_window
from mta_clip.modeling.inference.sliding_window import WindowAccumulator, window_starts
from mta_clip.modeling.ops import resizing


def pointwise(image):
    """Scores that depend on the pixel alone, so that windows must not change them."""
    return torch.cat([image, image.sum(0, keepdim=True)])


def context(image):
    """Scores that depend on the whole window."""
    return pointwise(image) + image.mean()


def predict_with(function):
    """What a model does with windows, from a function of one image."""
    return lambda crops: [WholeScores(Scores(function(crop))) for crop in crops]


def window_scores(image, function=pointwise, **options):
    window = SlidingWindow(**({"size": (8, 8), "stride": (8, 8)} | options))
    return WindowScores(window, predict_with(function), image)


@pytest.mark.parametrize(
    ("length", "starts"),
    [(512, [0]), (683, [0, 171]), (938, [0, 426]), (939, [0, 426, 427]), (1024, [0, 426, 512]), (300, [0])],
)
def test_window_starts(length, starts):
    assert window_starts(length, 512, 426) == starts


def test_height_and_width_are_told_apart():
    for size in ((8, 16), (16, 8)):
        SlidingWindow(size=size, stride=size)
        for stride in ((size[0] + 1, size[1]), (size[0], size[1] + 1)):
            with pytest.raises(ValueError, match="larger than SIZE"):
                SlidingWindow(size=size, stride=stride)


def test_window_starts_of_small_numbers():
    assert window_starts(3, 5, 1) == window_starts(5, 5, 1) == [0]
    assert window_starts(7, 5, 1) == [0, 1, 2] and window_starts(7, 5, 2) == [0, 2]


def test_windows_cover_everything_and_stay_inside():
    for length in range(1, 40):
        for size in (1, 5, 8):
            for stride in range(1, size + 1):
                starts = window_starts(length, size, stride)
                covered = {pixel for start in starts for pixel in range(start, start + min(size, length))}
                assert covered == set(range(length)), (length, size, stride)


@pytest.mark.parametrize(
    ("shape", "stride", "blend"),
    [
        ((20, 31), (5, 3), "uniform"),
        ((20, 31), (1, 7), "linear"),  # windows of many rows overlap
        ((8, 8), (8, 8), "linear"),  # one window
        ((9, 8), (8, 8), "uniform"),  # the last window is moved back by all but one row
        ((5, 30), (5, 3), "linear"),  # lower than a window
        ((3, 4), (1, 7), "uniform"),  # within one
        ((1, 9), (8, 8), "linear"),  # windows of one row
    ],
)
def test_pointwise_scores_are_those_of_the_whole_image(shape, stride, blend):
    image = torch.randn(3, *shape)
    scores = window_scores(image, stride=stride, batch=3, blend=blend).whole().classes
    assert scores.shape == (4, *shape) and scores.dtype == torch.float32
    torch.testing.assert_close(scores, pointwise(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 10), (5, 7), (1, 1)])
def test_an_image_within_the_window_equals_whole_image_inference_exactly(shape):
    image = torch.randn(3, *shape)
    assert torch.equal(window_scores(image, context, size=(8, 10), stride=(4, 4)).whole().classes, context(image))


@pytest.mark.parametrize("blend, expected", [("uniform", [1, 1, 2.5, 2.5, 4, 4]), ("linear", [1, 1, 2, 3, 4, 4])])
def test_overlaps_are_averaged(blend, expected):
    """Linear weights are 1 2 2 1 | 1 2 2 1, so that at the overlap they are 2 and 1, then 1 and 2."""
    values = iter([1.0, 4.0])
    image = torch.zeros(3, 4, 6)
    scores = window_scores(
        image, lambda crop: torch.full_like(crop, next(values)), size=(4, 4), stride=(4, 2), blend=blend
    )
    assert scores.whole().classes[0, 0].tolist() == pytest.approx(expected)


def test_batches_of_windows_do_not_change_the_result():
    image = torch.randn(3, 19, 23)
    counts = []

    def counting(crops):
        counts.append(len(crops))
        assert {crop.shape for crop in crops} == {(3, 8, 8)}
        return predict_with(context)(crops)

    one, many = (
        WindowScores(SlidingWindow(size=(8, 8), stride=(5, 5), batch=batch), counting, image).whole()
        for batch in (1, 5)
    )
    torch.testing.assert_close(one.classes, many.classes, rtol=0, atol=1e-6)
    assert counts == [1] * 16 + [5, 5, 5, 1]


@pytest.mark.parametrize("size", [(8, 12), (12, 8)])
def test_windows_need_not_be_square(size):
    image, shapes = torch.randn(3, 30, 31), set()

    def predict(crops):
        shapes.update(crop.shape[1:] for crop in crops)
        return predict_with(pointwise)(crops)

    scores = WindowScores(SlidingWindow(size=size, stride=(5, 5)), predict, image).whole().classes
    torch.testing.assert_close(scores, pointwise(image), rtol=0, atol=1e-5)
    assert shapes == {size}


def test_rows_may_be_skipped():
    """Also those of windows that are not predicted yet."""
    image = torch.randn(3, 40, 9)
    scores = window_scores(image, stride=(5, 5), batch=1)
    torch.testing.assert_close(scores.rows(34, 39).classes, pointwise(image)[:, 34:39], rtol=0, atol=1e-5)


def test_half_precision_scores_are_summed_in_float32():
    image = torch.rand(3, 16, 16)
    scores = window_scores(image, lambda crop: pointwise(crop).bfloat16(), stride=(1, 1)).whole().classes
    torch.testing.assert_close(scores, pointwise(image).bfloat16().float(), rtol=0, atol=1e-5)


def test_what_comes_with_the_scores_is_averaged_too():
    image = torch.rand(3, 12, 12)

    def predict(crops):
        return [WholeScores(Scores(pointwise(crop), crop[:1] + crop.mean())) for crop in crops]

    scores = WindowScores(SlidingWindow(size=(8, 8), stride=(4, 4)), predict, image).whole()
    alone = window_scores(image, lambda crop: crop[:1] + crop.mean(), stride=(4, 4)).whole().classes
    assert torch.equal(scores.trusty, alone)


def test_scores_of_earlier_windows_are_gone_when_the_next_batch_is_predicted():
    alive = []

    def predict(crop):
        assert not any(reference() is not None for reference in alive)
        scores = pointwise(crop)
        alive.append(weakref.ref(scores.untyped_storage()))
        return scores

    window_scores(torch.randn(3, 12, 12), predict, size=(4, 4), stride=(2, 2), batch=1).whole()
    assert len(alive) == 25


def summed_whole(window, predict, image):
    """The definition: all windows summed into one map, divided by the sums of their weights."""
    height, width = (min(size, length) for size, length in zip(window.size, image.shape[-2:], strict=True))
    weight = torch.ones(height, width)
    if window.blend == "linear":
        rows, columns = (torch.arange(1.0, length + 1) for length in (height, width))
        rows, columns = (torch.minimum(x, len(x) + 1 - x) / (len(x) + 1) for x in (rows, columns))
        weight = rows[:, None] * columns
    scores, weights = torch.zeros(4, *image.shape[-2:]), torch.zeros(image.shape[-2:])
    for top in window_starts(image.shape[-2], window.size[0], window.stride[0]):
        for left in window_starts(image.shape[-1], window.size[1], window.stride[1]):
            area = (..., slice(top, top + height), slice(left, left + width))
            scores[area] += predict(image[area][None])[0] * weight
            weights[area] += weight
    return scores / weights


@pytest.mark.parametrize(
    ("shape", "stride", "batch", "blend", "block_bytes"),
    [
        ((20, 31), (5, 3), 3, "uniform", 1),
        ((20, 31), (5, 3), 3, "linear", 600),
        ((9, 8), (8, 8), 1, "linear", 1),
        ((30, 5), (1, 7), 100, "linear", 600),
        ((3, 4), (3, 8), 3, "uniform", 600),
        ((41, 10), (3, 8), 3, "uniform", 600),
        ((41, 10), (3, 8), 3, "linear", 1),
    ],
)
def test_equal_the_sum_over_the_whole_image(shape, stride, batch, blend, block_bytes, monkeypatch):
    """Also where a batch holds several rows of windows, or more than there are, and rows come one by one."""
    monkeypatch.setitem(resizing._BLOCK_BYTES, "cpu", block_bytes)
    image = torch.randn(3, *shape)
    window = SlidingWindow(size=(8, 8), stride=stride, batch=batch, blend=blend)
    expected = summed_whole(window, lambda crops: torch.stack([context(crop) for crop in crops]), image)
    scores = WindowScores(window, predict_with(context), image).whole().classes
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("stride", "expected"),
    [(2, [2, 2, 4, 4, 6, 6, 6, 6]), (4, [2, 2, 2, 2, 4, 4, 4, 4])],  # two windows in each of three rows, or of two
)
def test_windows_are_predicted_when_their_rows_are_read(stride, expected):
    predicted = []

    def counting(crop):
        predicted.append(crop)
        return pointwise(crop)

    scores = window_scores(torch.randn(3, 8, 8), counting, size=(4, 4), stride=(stride, 4), batch=2)
    counts = []
    for row in range(8):
        scores.rows(row, row + 1)
        counts.append(len(predicted))
    assert counts == expected


def test_every_window_needs_scores():
    window = SlidingWindow(size=(4, 4), stride=(4, 4), batch=2)
    with pytest.raises(ValueError, match="shorter"):
        WindowScores(window, lambda crops: predict_with(pointwise)(crops[1:]), torch.zeros(3, 4, 8))


@pytest.mark.parametrize("count", [2, 3])
def test_rows_may_be_read_again_until_later_ones_are(count):
    image = torch.randn(3, 40, 12)
    scores = window_scores(image, size=(4, 4), stride=(3, 3))
    for start in range(0, 41 - count):
        rows = scores.rows(start, start + count).classes
        torch.testing.assert_close(rows, pointwise(image)[:, start : start + count], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("stride", "batch"), [(3, 2), (4, 3)])
def test_memory_holds_the_rows_of_one_row_of_windows(stride, batch):
    image = torch.randn(3, 40, 12)
    scores = window_scores(image, size=(4, 4), stride=(stride, stride), batch=batch)
    for row in range(39):
        scores.rows(row, row + 2)
        strips = [strip for strip in scores.accumulator.strips if strip.sums is not None]
        assert sum(strip.sums.classes.shape[1] for strip in strips) <= 4 + 3


def test_the_accumulator_by_hand():
    accumulator = WindowAccumulator((3, 2), (2, 2), ([0, 1], [0]), "uniform")
    accumulator.add(Scores(torch.tensor([[[1.0, 1.0], [2.0, 2.0]]])), top=0, left=0)
    assert accumulator.take(0, 1).classes.tolist() == [[[1, 1]]]
    accumulator.add(Scores(torch.tensor([[[4.0, 8.0]]])), top=1, left=0)
    accumulator.add(Scores(torch.tensor([[[5.0, 5.0]]])), top=1, left=0, start=1)
    assert accumulator.take(0, 3).classes.tolist() == [[[1, 1], [3, 5], [5, 5]]]
    accumulator.drop(2)
    assert accumulator.take(2, 3).classes.tolist() == [[[5, 5]]]


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
    assert SlidingWindow(size=(8, 8), stride=(8, 8)).batch == cfg.TEST.SLIDING_WINDOW.BATCH
    cfg.TEST.SLIDING_WINDOW.ENABLED = True
    cfg.TEST.SLIDING_WINDOW.SIZE = [64, 128]
    cfg.TEST.SLIDING_WINDOW.STRIDE = [32, 100]
    cfg.TEST.SLIDING_WINDOW.BLEND = "linear"
    window = build_sliding_window(cfg)
    assert (window.size, window.stride, window.batch, window.blend) == ((64, 128), (32, 100), 4, "linear")


def test_a_window_larger_than_the_images_is_told_once(monkeypatch, caplog):
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())
    window = SlidingWindow(size=(8, 8), stride=(8, 8))
    for size in ((8, 9), (6, 9), (5, 5)):
        WindowScores(window, lambda crops: [WholeScores(Scores(crop)) for crop in crops], torch.zeros(3, *size)).whole()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "SIZE (8, 8) is larger than an image of (6, 9)" in message
