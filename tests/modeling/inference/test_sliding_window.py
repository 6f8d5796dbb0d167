import weakref

import pytest
import torch

from mta_clip.config import get_cfg
from mta_clip.modeling.inference import SlidingWindow, build_sliding_window, progress
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


@pytest.mark.parametrize("blend", ["uniform", "linear"])
def test_blocks_of_rows_add_up_to_whole_windows(blend):
    def in_blocks(images):
        slices = [slice(0, 3), slice(3, 4), slice(4, 8)]
        return (((rows, scores[:, rows]) for rows in slices) for scores in context(images))

    window = SlidingWindow(size=(8, 8), stride=(5, 6), batch=3, blend=blend)
    images = torch.randn(2, 3, 21, 19)
    assert torch.equal(window(in_blocks, images), window(context, images))


def test_half_precision_scores_are_summed_in_float32():
    images = torch.rand(1, 3, 16, 16)
    scores = SlidingWindow(size=(8, 8), stride=(1, 1))(lambda x: pointwise(x).bfloat16(), images)
    assert torch.allclose(scores, pointwise(images).bfloat16().float(), atol=1e-5)


def test_scores_of_earlier_windows_are_gone_when_the_next_batch_is_predicted():
    alive = []

    def predict(images):
        assert not any(reference() is not None for reference in alive)
        scores = pointwise(images)
        alive.append(weakref.ref(scores.untyped_storage()))
        return scores

    SlidingWindow(size=(4, 4), stride=(2, 2), batch=1)(predict, torch.randn(1, 3, 12, 12))
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


@pytest.mark.parametrize("blend", ["uniform", "linear"])
@pytest.mark.parametrize("shape", [(20, 31), (8, 8), (9, 8), (5, 30), (30, 5), (3, 4), (41, 10)])
@pytest.mark.parametrize("stride", [(8, 8), (5, 3), (1, 7), (3, 8)])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_strips_equal_the_sum_over_the_whole_image(shape, stride, batch, blend):
    """Also where a batch holds several rows of windows, or more than there are."""
    image = torch.randn(3, *shape)
    window = SlidingWindow(size=(8, 8), stride=stride, batch=batch, blend=blend)
    expected = summed_whole(window, context, image)
    strips = [strip.clone() for strip in window.strips(context, image)]
    tops = window_starts(shape[0], 8, stride[0])
    assert [strip.shape[1] for strip in strips] == torch.tensor([*tops, shape[0]]).diff().tolist()
    torch.testing.assert_close(torch.cat(strips, 1), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(window(context, image[None])[0], expected, rtol=0, atol=1e-5)


def test_strips_come_while_windows_are_still_to_be_predicted():
    predicted = []

    def counting(images):
        predicted.extend(images)
        return pointwise(images)

    strips = SlidingWindow(size=(4, 4), stride=(2, 4), batch=3).strips(counting, torch.randn(3, 8, 8))
    assert [len(predicted) for _ in strips] == [3, 6, 6]  # two windows in each of three rows


def test_the_band_is_as_high_as_a_window(monkeypatch):
    """Nothing of the image's size is allocated, and the band is not allocated again."""
    made = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, **named: made.append(zeros(*a, **named)) or made[-1])
    pointers = set()
    for strip in SlidingWindow(size=(4, 4), stride=(3, 3), batch=2).strips(pointwise, torch.randn(3, 40, 12)):
        pointers.add(strip.untyped_storage().data_ptr())
    assert len(pointers) == 1 and max(map(torch.numel, made)) == 4 * 4 * 12


@pytest.mark.parametrize("delay, shown", [(0, True), (1000, False)])
def test_progress_of_slow_images(delay, shown, monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", delay)
    SlidingWindow(size=(2, 2), stride=(2, 2))(pointwise, torch.randn(1, 3, 4, 4))
    assert ("4 [" in (text := capsys.readouterr().err) and "window" in text) == shown


def test_progress_starts_no_thread(monkeypatch):
    monkeypatch.setattr(progress.tqdm, "monitor", None)
    with progress.progress_bar(2, "window") as bar:
        assert type(bar).monitor is None


def test_progress_in_the_main_process_only(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr(progress.comm, "is_main_process", lambda: False)
    SlidingWindow(size=(2, 2), stride=(2, 2))(pointwise, torch.randn(1, 3, 4, 4))
    assert capsys.readouterr().err == ""


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
