import pickle

import numpy as np
import pytest

from mta_clip.serving.requests import MOST_NAMES, Refused, read_job


def read(content, **options):
    return read_job(content, **{"max_pixels": 1200} | options)


def refusal(content, **options):
    with pytest.raises(Refused) as refused:
        read(content, **options)
    return refused.value.status, refused.value.message


def test_a_job(png, picture):
    job = read(png)
    assert np.array_equal(job.image, picture) and (job.names, job.other, job.output) == (None, None, "png")
    job = read(png, names=["sky, road;street", "my cat,"], other=" rest ", threshold=0.5, output="json")
    assert (job.names, job.other) == (("sky", "road;street", "my cat"), "rest")
    assert (job.threshold, job.output) == (0.5, "json")
    assert len(str(job)) < 200  # LitServe writes it into its log


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "There is no image"),
        (b"some text", 415, "no image format that is read here; it starts with b'some text'"),
        (b"\0\0\0\x18ftypheic", 415, "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", 415, "no image format"),
    ],
)
def test_no_image(content, status, message):
    found, text = refusal(content)
    assert found == status and message in text


def test_a_broken_image(png):
    status, message = refusal(png[:80])
    assert status == 400 and "cannot be read" in message


def test_too_many_pixels_are_never_decoded(png, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    status, message = refusal(png, max_pixels=1199)
    assert status == 413 and "--max-pixels" in message


def test_wrong_parameters(png):
    assert refusal(png, names=[",".join(map(str, range(MOST_NAMES + 1)))])[0] == 400
    assert refusal(png, threshold=1.5)[0] == refusal(png, threshold=float("nan"))[0] == 400


def test_refusals_travel_between_processes():
    refused = pickle.loads(pickle.dumps(Refused(413, "too large")))
    assert (refused.status, refused.message) == (413, "too large")
