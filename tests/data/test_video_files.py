import cv2
import numpy as np
import pytest
from clips import bar_frames, read_clip, write_clip

from mta_clip.data.video_files import VideoFrames, is_video, is_webcam, writing_video


def test_frames_of_a_file(tmp_path):
    video = VideoFrames(str(write_clip(tmp_path / "a.avi", bar_frames(8))))
    assert (video.rate, video.announced, video.live) == (10, 8, False)
    np.testing.assert_allclose(np.array(list(video)), bar_frames(8), atol=12)
    assert video.read == 8 and video.problem() == ""


def test_colors_are_rgb(tmp_path):
    red = np.zeros((2, 32, 32, 3), np.uint8)
    red[..., 0] = 200
    frame = next(iter(VideoFrames(str(write_clip(tmp_path / "a.avi", red)))))
    assert frame[..., 0].mean() > 180 and frame[..., 2].mean() < 20


def test_a_missing_tail_is_told_and_the_rest_kept(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8)
    data = write_clip(tmp_path / "a.avi", noise).read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    video = VideoFrames(str(tmp_path / "cut.avi"))
    count = len(list(video))
    assert 3 <= count < 12 and video.problem() == f"{12 - count} of 12 frames cannot be read"


def test_a_broken_frame_is_left_out(tmp_path, monkeypatch):
    video = VideoFrames(str(write_clip(tmp_path / "a.avi", bar_frames(5))))
    capture, calls = video._capture, []

    class Damaged:
        grab, release = capture.grab, capture.release

        def retrieve(self):
            decoded, frame = capture.retrieve()
            calls.append(decoded)
            return (False, None) if len(calls) == 2 else (decoded, frame)

    video._capture = Damaged()
    assert len(list(video)) == 4 and video.broken == 1 and video.problem() == "1 of 5 frames cannot be read"


def test_what_is_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    for name, words in (("text.mp4", "no format that OpenCV knows"), ("empty.mp4", "empty")):
        with pytest.raises(ValueError, match=words):
            VideoFrames(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        VideoFrames(str(tmp_path / "gone.mp4"))


def test_webcams(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_webcam("0") and is_video("0") and is_video("a/B.MOV") and not is_video("a.png")
    clip, opened = str(write_clip(tmp_path / "a.avi", bar_frames(3))), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: opened(clip if source == 3 else "gone"))
    video = VideoFrames("3")
    assert video.live and len(list(video)) == 3 and video.problem() == ""
    with pytest.raises(ValueError, match="webcam 7 cannot be opened"):
        VideoFrames("7")
    (tmp_path / "0").touch()
    assert not is_webcam("0")


def test_written_frames_can_be_read(tmp_path):
    with writing_video(tmp_path / "sub" / "a.mp4", 12.5) as video:
        for frame in bar_frames(6, size=(33, 49)):
            video.write(frame)
        video.write(bar_frames(1)[0])  # of another size
    frames, rate = read_clip(tmp_path / "sub" / "a.mp4")
    assert rate == 12.5 and frames.shape == (7, 32, 48, 3)
    assert abs(frames[3, :, :4].mean() - 20) < 30 and frames[3, :, 8:16].mean() > 150
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.mp4"]


def test_an_unfinished_video_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), writing_video(tmp_path / "a.mp4", 10) as video:
        video.write(bar_frames(1)[0])
        raise RuntimeError
    with pytest.raises(OSError, match="no frame to write"), writing_video(tmp_path / "b.mp4", 10):
        pass
    assert list(tmp_path.iterdir()) == []
