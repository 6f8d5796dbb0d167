"""Reads and writes video files, and reads webcams, one frame at a time.

Shapes: H, W frame size.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..files import complete_file
from .image_files import named_errors

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
CODEC = "mp4v"  # MPEG-4, the only one of .mp4 files that OpenCV's wheels can write without further libraries
USUAL_RATE = 25.0  # frames per second, where a video or a webcam does not say its own


def is_webcam(source: str) -> bool:
    """Whether a source is the index of a webcam, such as "0", and not a file of this name."""
    return source.isdecimal() and not os.path.lexists(source)


def is_video(source: str) -> bool:
    """Whether a source is a video file, by its suffix, or a webcam."""
    return source.lower().endswith(VIDEO_SUFFIXES) or is_webcam(source)


class VideoFrames:
    """The frames of a video, (H, W, 3) uint8 RGB, read as they are iterated over, once.

    A frame that cannot be decoded is left out and counted. FFmpeg, which OpenCV reads with, mends damaged frames where
    it can.

    Args:
        source: path of a video, or index of a webcam.

    Attributes:
        rate: frames per second.
        announced: number of frames that the file says it has; 0 if it does not, and for webcams.
        read, broken: numbers of frames that were decoded, and that could not be.
        live: whether this is a webcam.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a video that OpenCV can read, or there is no such webcam.
    """

    def __init__(self, source: str):
        self.source, self.live = source, is_webcam(source)
        if self.live:
            self._capture = cv2.VideoCapture(int(source))
        else:
            with named_errors(source, "video"):
                self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            raise ValueError(
                f"webcam {source} cannot be opened"
                if self.live
                else f"{source}: the video cannot be read (it is cut off, empty, or in no format that OpenCV knows)."
            )
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or USUAL_RATE
        self.announced = 0 if self.live else max(0, round(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.read = self.broken = 0

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yields the frames that can be decoded."""
        try:
            while self._capture.grab():
                decoded, frame = self._capture.retrieve()
                if decoded:
                    self.read += 1
                    yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                else:
                    self.broken += 1
        finally:
            self._capture.release()

    def problem(self) -> str:
        """After the last frame: what was missing, or an empty text."""
        missing = self.broken + max(0, self.announced - self.read - self.broken)
        return f"{missing} of {self.read + missing} frames cannot be read" if missing else ""


class VideoWriter:
    """Writes frames of one size; `writing_video` makes it.

    Args:
        path: of the file, which ends in .mp4.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: float):
        self.path, self.rate = path, rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Adds a frame, (H, W, 3) RGB; of an odd side the last row or column is left out, as MPEG-4 needs even ones.

        Raises:
            OSError: the file cannot be written.
        """
        height, width = (side // 2 * 2 for side in frame.shape[:2])
        if self._writer is None:
            self._size = (width, height)
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*CODEC), self.rate, self._size)
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: a video of {width}x{height} pixels cannot be written")
        frame = np.ascontiguousarray(frame[:height, :width, ::-1])
        self._writer.write(frame if (width, height) == self._size else cv2.resize(frame, self._size))

    def close(self) -> None:
        """Completes the file."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def writing_video(path: Path, rate: float) -> Iterator[VideoWriter]:
    """A writer of a file that appears as a whole, if its block ends without an exception; see `complete_file`.

    Raises:
        OSError: the file cannot be written, or no frame was.
    """
    with complete_file(path) as part:
        file = part.with_name(f"{part.name}.mp4")  # by its suffix OpenCV chooses the kind of file
        writer = VideoWriter(file, rate)
        try:
            try:
                yield writer
            finally:
                writer.close()
            if not file.exists():
                raise OSError(f"{path}: there is no frame to write")
            file.replace(part)
        finally:
            file.unlink(missing_ok=True)
