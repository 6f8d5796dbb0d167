"""Segments videos frame by frame, in memory that does not depend on their length.

Shapes: C classes, H and W frame size.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..data.video_files import VideoFrames, writing_video
from ..predictor import SegmentationPredictor
from ..visualization import save_label_map
from .result import Segmentation

logger = logging.getLogger(__name__)


def segment_video(
    predictor: SegmentationPredictor,
    source: str,
    path: Path,
    *,
    alpha: float = 0.55,
    smoothing: float = 0.0,
    batch_size: int = 4,
    labels: Path | None = None,
) -> str:
    """Writes a video with the labels painted over its frames.

    Args:
        predictor: set to the class names in use.
        source: path of a video, or index of a webcam, which is read until Ctrl-C.
        path: of the new video, an .mp4 file.
        alpha: share of the label colours, 0..1.
        smoothing: see `smoothed`.
        batch_size: frames in a forward pass; of a webcam always one.
        labels: folder for the label maps, 000000.png, 000001.png, ...; None: they are not saved.

    Returns:
        Which frames are missing, or an empty text.

    Raises:
        FileNotFoundError, ValueError: the source cannot be read, or has no frame.
        OSError: a file cannot be written.
    """
    frames = VideoFrames(source)
    results = segment_frames(predictor, frames, smoothing=smoothing, batch_size=1 if frames.live else batch_size)
    with (
        writing_video(path, frames.rate) as video,
        tqdm(total=frames.announced or None, unit="frame", desc=Path(source).name, leave=False, disable=None) as bar,
    ):
        try:
            for number, result in enumerate(results):
                video.write(np.asarray(result.overlay(alpha=alpha)))
                if labels is not None:
                    save_label_map(result.labels, labels / f"{number:06}.png", result.colors)
                bar.update()
        except KeyboardInterrupt:
            if not frames.live:
                raise
            logger.info("stopped; %s has what was recorded", path)
        if not frames.read:
            raise ValueError(f"{source}: the video has no frame that can be read")
    return frames.problem()


def segment_frames(
    predictor: SegmentationPredictor,
    frames: Iterable[NDArray[np.uint8]],
    *,
    smoothing: float = 0.0,
    batch_size: int = 4,
) -> Iterator[Segmentation]:
    """Yields the result of each frame, (H, W, 3) RGB; for arguments see `segment_video`."""
    results = (
        result
        for batch in _batches(frames, batch_size)
        for result in predictor.predict_batch(batch, label_maps_only=not smoothing)
    )
    return smoothed(results, smoothing) if smoothing else results


def smoothed(results: Iterable[Segmentation], smoothing: float) -> Iterator[Segmentation]:
    """Averages probabilities over time: mean = smoothing * mean before + (1 - smoothing) * those of the frame.

    Args:
        results: with scores, of frames of one size.
        smoothing: 0..1, below 1; 0 changes nothing, 0.9 remembers about ten frames.

    Yields:
        Results whose scores are the means, (C, H, W), and whose labels and confidence follow from them.

    Raises:
        ValueError: `smoothing` is out of range.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
    mean: NDArray[np.float32] | None = None
    for result in results:
        now = result.probabilities
        mean = now if mean is None or mean.shape != now.shape else smoothing * mean + (1 - smoothing) * now
        labels = mean.argmax(axis=0)
        confidence = np.take_along_axis(mean, labels[None], axis=0)[0]
        yield dataclasses.replace(result, scores=mean, labels=labels, confidence=confidence)


def _batches(frames: Iterable[NDArray[np.uint8]], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    batch: list[NDArray[np.uint8]] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
