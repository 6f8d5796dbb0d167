"""Tiny videos: a bright bar that moves over dark frames."""

from pathlib import Path

import cv2
import numpy as np

SIZE = (32, 48)  # height, width
MOTION_JPEG = "MJPG"  # every frame by itself, so that damage stays where it is


def bar_frames(count, size=SIZE):
    """Frames (H, W, 3) RGB; the bar is at the left edge in the first and moves by two pixels per frame."""
    frames = np.full((count, *size, 3), 20, np.uint8)
    for number in range(count):
        frames[number, :, 2 * number : 2 * number + 12] = 220
    return frames


def write_clip(path: Path, frames, *, rate=10, codec=MOTION_JPEG) -> Path:
    """Writes frames (H, W, 3) RGB as a video."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def read_clip(path: Path):
    """All frames as an array (N, H, W, 3) RGB, and their rate."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (frame := capture.read())[0]:
        frames.append(frame[1][..., ::-1])
    return np.array(frames), capture.get(cv2.CAP_PROP_FPS)
