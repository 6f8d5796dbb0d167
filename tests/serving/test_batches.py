import logging

import numpy as np
import pytest
from saved_models import mta_clip_config, segmenter

from mta_clip.serving.batches import segment_jobs
from mta_clip.serving.requests import Job, Refused


@pytest.fixture(scope="module")
def model():
    return segmenter(mta_clip_config())


ERRORS = {1: ValueError("bad names"), 2: MemoryError(), 3: RuntimeError("secret")}


class Counting:
    """A model that keeps what it is asked for, and fails at images whose first pixel says so."""

    def __init__(self, model):
        self.model = model
        self.calls = []

    def stream(self, images, labels, *, batch_size):
        self.calls.append((len(images), images[0].shape[:2], labels))
        for image in images:
            if error := ERRORS.get(image[0, 0, 0]):
                raise error
        return self.model.stream(images, labels, batch_size=batch_size)


def image(height, first=200):
    pixels = np.random.default_rng(height).integers(50, 256, (height, 40, 3), np.uint8)
    pixels[0, 0, 0] = first
    return pixels


def test_jobs_of_one_size_and_list_share_a_pass(model):
    counting = Counting(model)
    jobs = [Job(image(30)), Job(image(30), names=("sky", "cat")), Job(image(20)), Job(image(30, 99)), Job(image(20))]
    results = segment_jobs(counting, jobs)
    assert counting.calls == [(2, (30, 40), None), (1, (30, 40), ("sky", "cat")), (2, (20, 40), None)]
    for job, result in zip(jobs, results, strict=True):
        alone = model(job.image, job.names)
        assert np.mean(result.labels != alone.labels) < 0.01 and result.class_names == alone.class_names


def test_an_answer_has_what_it_needs(model):
    plain, json, rejected = segment_jobs(
        model, [Job(image(30)), Job(image(30), output="json"), Job(image(30), other="rest", threshold=1)]
    )
    assert plain.labels.dtype == np.uint8 and plain.confidence.size == plain.image.size == 0
    assert json.confidence.shape == (30, 40) and json.image.size == 0
    alone = model(image(30), other="rest", threshold=1)
    assert rejected.class_names[-1] == "rest" and np.mean(rejected.labels != alone.labels) < 0.01


def test_an_image_that_fails_spoils_no_other(model, caplog):
    counting = Counting(model)
    with caplog.at_level(logging.ERROR):
        good, names, memory, bug = segment_jobs(counting, [Job(image(30, first)) for first in (200, 1, 2, 3)])
    assert counting.calls[0][0] == 4 and not isinstance(good, Refused)
    assert (names.status, names.message) == (400, "bad names")
    assert memory.status == 413 and "40 x 30" in memory.message
    assert bug.status == 500 and "secret" not in bug.message and "secret" in caplog.text
