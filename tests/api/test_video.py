import numpy as np
import pytest
from clips import SIZE, bar_frames, read_clip, write_clip
from PIL import Image
from toy_predictor import BrightnessSegmentor, make_config

from mta_clip.api import video
from mta_clip.api.result import Segmentation
from mta_clip.api.video import segment_frames, segment_video, smoothed
from mta_clip.config_loader import load_config
from mta_clip.predictor import SegmentationPredictor


@pytest.fixture
def predictor(tmp_path):
    (tmp_path / "model").mkdir()
    config, weights = make_config(tmp_path / "model")
    return SegmentationPredictor(load_config(config, ["MODEL.WEIGHTS", weights, "INPUT.MIN_SIZE_TEST", 0]))


def result(*shares):
    scores = np.array(shares, np.float32)[:, None, None]
    image, colors = np.zeros((1, 1, 3), np.uint8), np.zeros((2, 3), np.uint8)
    options = {"class_names": ("a", "b"), "colors": colors, "confidence": scores.max(0), "labels": scores.argmax(0)}
    return Segmentation(image=image, scores=scores, **options)


def test_a_video_with_its_labels(predictor, tmp_path):
    source = write_clip(tmp_path / "a.avi", bar_frames(10))
    assert segment_video(predictor, str(source), tmp_path / "a.mp4", alpha=1.0, labels=tmp_path / "labels") == ""
    frames, rate = read_clip(tmp_path / "a.mp4")
    assert rate == 10 and frames.shape == (10, *SIZE, 3)
    files = sorted((tmp_path / "labels").iterdir())
    assert [file.name for file in files] == [f"{number:06}.png" for number in range(10)]
    for number, file in enumerate(files):
        labels = np.array(Image.open(file))
        assert labels[:, 2 * number + 4 : 2 * number + 8].all() and not labels[:, 2 * number + 14 :].any()
        bar, rest = (predictor.colors[index].astype(int) for index in (1, 0))
        assert (
            abs(frames[number, 10, 2 * number + 6] - bar).max() < 40 and abs(frames[number, 10, -3] - rest).max() < 40
        )


def test_frames_share_a_pass_and_are_read_as_needed(predictor, monkeypatch):
    sizes, read, forward = [], [], BrightnessSegmentor.forward
    monkeypatch.setattr(BrightnessSegmentor, "forward", lambda self, x: sizes.append(len(x)) or forward(self, x))
    frames = (read.append(number) or frame for number, frame in enumerate(bar_frames(7)))
    results = segment_frames(predictor, frames, batch_size=3)
    assert next(results).scores is None and len(read) == 3  # not the whole video
    assert len(list(results)) == 6 and sizes == [3, 3, 1]


def test_smoothing_is_an_exponential_mean():
    frames = [result(1.0, 0.0), result(0.0, 1.0), result(0.0, 1.0), result(0.0, 1.0)]
    means = [float(x.scores[0, 0, 0]) for x in smoothed(frames, 0.7)]
    np.testing.assert_allclose(means, [1, 0.7, 0.49, 0.343], rtol=1e-5)
    assert [int(x.labels[0, 0]) for x in smoothed(frames, 0.7)] == [0, 0, 1, 1]
    assert [round(float(x.confidence[0, 0]), 3) for x in smoothed(frames, 0.7)] == [1, 0.7, 0.51, 0.657]
    assert [int(x.labels[0, 0]) for x in smoothed(frames, 0)] == [0, 1, 1, 1]
    for wrong in (-0.1, 1):
        with pytest.raises(ValueError, match="below 1"):
            list(smoothed(frames, wrong))


def test_smoothing_removes_a_flash(predictor, tmp_path):
    frames = np.full((9, *SIZE, 3), 20, np.uint8)
    frames[4] = 220
    flicker = [int(x.labels.mean()) for x in segment_frames(predictor, frames)]
    steady = [int(x.labels.mean()) for x in segment_frames(predictor, frames, smoothing=0.8)]
    assert flicker == [0, 0, 0, 0, 1, 0, 0, 0, 0] and steady == [0] * 9


def test_frames_without_any_class(predictor):
    frames = np.full((4, *SIZE, 3), 100, np.uint8)  # the threshold: neither dark nor bright
    frames[:2] = 220
    predictor.set_other("rest", 0.5)
    for smoothing, found in ((0, [1, 1, 2, 2]), (0.8, [1, 1, 1, 1])):
        results = list(segment_frames(predictor, frames, smoothing=smoothing))
        assert [int(x.labels.mean()) for x in results] == found
        assert all(x.class_names[-1] == x.other == "rest" for x in results)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        predictor.set_other("rest", 1.5)


def test_a_cut_video_is_kept_as_far_as_it_goes(predictor, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8)
    data = write_clip(tmp_path / "a.avi", noise).read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    problem = segment_video(predictor, str(tmp_path / "cut.avi"), tmp_path / "out.mp4")
    assert problem == f"{12 - len(read_clip(tmp_path / 'out.mp4')[0])} of 12 frames cannot be read"


def test_a_webcam_is_recorded_until_it_is_stopped(predictor, tmp_path, monkeypatch):
    class Webcam:
        live, rate, announced, read = True, 10.0, 0, 0

        def __init__(self, source):
            pass

        def __iter__(self):
            for frame in bar_frames(4):
                self.read += 1
                yield frame
            raise KeyboardInterrupt

        def problem(self):
            return ""

    monkeypatch.setattr(video, "VideoFrames", Webcam)
    segment_video(predictor, "0", tmp_path / "webcam.mp4")
    assert len(read_clip(tmp_path / "webcam.mp4")[0]) == 4
    Webcam.live = False
    with pytest.raises(KeyboardInterrupt):
        segment_video(predictor, "a.mp4", tmp_path / "file.mp4")
    assert not (tmp_path / "file.mp4").exists()
