"""The model's side: jobs of several clients in one forward pass, each with its own result or refusal.

Shapes: H, W image size.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import OutOfMemoryError

from ..api.result import Segmentation
from ..api.segmenter import Segmenter
from .requests import Job, Refused

logger = logging.getLogger(__name__)


def segment_jobs(model: Segmenter, jobs: Sequence[Job]) -> list[Segmentation | Refused]:
    """Results of jobs, in their order. Those with the same names and images of one size share a forward pass.

    If a pass fails, its jobs are repeated one by one, so that one image spoils no other.
    """
    groups: dict[tuple, list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault((job.image.shape, job.names), []).append(index)
    results: dict[int, Segmentation | Refused] = {}
    for indices in groups.values():
        results |= zip(indices, _together(model, [jobs[index] for index in indices]), strict=True)
    return [results[index] for index in range(len(jobs))]


def _together(model: Segmenter, jobs: list[Job]) -> list[Segmentation | Refused]:
    try:
        found = list(model.stream([job.image for job in jobs], jobs[0].names, batch_size=len(jobs)))
        return [_finished(job, result) for job, result in zip(jobs, found, strict=True)]
    except Exception as error:
        if len(jobs) > 1:
            return [result for job in jobs for result in _together(model, [job])]
        return [_refusal(jobs[0], error)]


def _finished(job: Job, result: Segmentation) -> Segmentation:
    """The result without what the answer does not need: it is sent to the process that answers."""
    if job.other is not None:
        result = result.reject(job.other, threshold=job.threshold)
    labels: Any = result.labels.astype(np.uint8 if len(result.class_names) <= 256 else np.uint16)
    confidence = result.confidence if job.output == "json" else result.confidence[:0]
    return dataclasses.replace(result, image=result.image[:0], labels=labels, confidence=confidence, trusty=None)


def _refusal(job: Job, error: Exception) -> Refused:
    height, width = job.image.shape[:2]
    if isinstance(error, ValueError):  # names that the model cannot look for
        return Refused(400, str(error))
    if isinstance(error, MemoryError | OutOfMemoryError):
        logger.error("memory ran out at an image of %d x %d pixels", width, height)
        return Refused(413, f"Memory ran out at this image of {width} x {height} pixels; send a smaller one.")
    logger.error("an image of %d x %d pixels failed", width, height, exc_info=error)
    return Refused(500, "The server failed at this image; its log says why.")
