import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from saved_models import mta_clip_config
from toy_predictor import BrightnessSegmentor

from mta_clip.api.segmenter import Segmenter
from mta_clip.app.answers import Answers
from mta_clip.app.jobs import Cancelled
from mta_clip.modeling import MTACLIP


class FakeModels(dict):
    names = ("toy", "mta")


@pytest.fixture
def answers(toy, mta):
    return Answers(FakeModels(toy=toy, mta=mta), max_pixels=2000)


def segment(answers, path, model="toy", names="", other="", threshold=0.3, session="me", report=lambda *_: None):
    return answers.segment(path, model, names, other, threshold, session=session, report=report)


def test_an_answer(answers, toy, photo):
    answer = segment(answers, photo)
    assert np.array_equal(answer.result.labels, toy(photo).labels) and answer.result.scores is None
    assert answer.summary.startswith("40 x 30 pixels, 2 classes, ") and answer.summary.endswith("s with toy.")
    assert answer.result.path == "street.png"  # not where it lies on this machine
    assert all(path.is_file() for path in answers.downloads(answer))
    assert answers.overlay(answer, alpha=0.2, hidden=[0]).is_file()
    folder = Path(answer.folder.name)
    del answer
    assert not folder.exists()


def test_names_and_rejected_pixels(answers, photo):
    answer = segment(answers, photo, names=" night,\nday , ,", other=" nothing ", threshold=1)
    assert answer.result.class_names == ("night", "day", "nothing") and answer.names == ["night", "day"]
    assert "guess" not in answer.summary
    assert "cat is a guess" in segment(answers, photo, "mta", names="sky, cat").summary  # it has not learned language
    assert segment(answers, photo).result.class_names == ("dark thing", "bright thing")


def test_what_is_refused(answers, photo, tmp_path):
    with pytest.raises(ValueError, match="Choose an image"):
        segment(answers, None)
    Image.new("RGB", (100, 50)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"0\.0 million pixels.*--max-pixels"):
        segment(answers, str(tmp_path / "large.png"))
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ValueError, match="no image format"):
        segment(answers, str(tmp_path / "text.png"))
    with pytest.raises(ValueError, match="more than once"):
        segment(answers, photo, names="a, a")


def test_regions(answers, photo):
    answer = segment(answers, photo, "mta")
    text = answers.explain(answer, 0.5, 0.5)
    assert "query" in text and answer.queries is not None
    kept = answer.queries
    answers.explain(answer, 0.1, 0.1)
    assert answer.queries is kept  # the model runs once
    assert "bright thing" in answers.explain(segment(answers, photo), 0.9, 0.9)
    rejected = segment(answers, photo, "mta", other="nothing", threshold=1)
    row, column = np.argwhere(rejected.result.labels == 4)[0]
    text = answers.explain(rejected, (column + 0.5) / 40, (row + 0.5) / 30)
    assert "nothing" in text and "query" not in text and rejected.queries is None


class OwnMTACLIP(MTACLIP):
    """A model as users derive theirs, of another name."""


def test_regions_of_a_derived_model(photo):
    cfg = mta_clip_config("MODEL.META_ARCHITECTURE", "OwnMTACLIP")
    answers = Answers(FakeModels(own=Segmenter(OwnMTACLIP(cfg).eval(), cfg)), max_pixels=2000)
    assert "query" in answers.explain(segment(answers, photo, "own"), 0.5, 0.5)


def test_progress_and_stopping(answers, photo, monkeypatch):
    told = []
    segment(answers, photo, report=lambda *report: told.append(report))
    assert told and told[-1][0] == told[-1][1] == 30
    with pytest.raises(Cancelled):
        monkeypatch.setattr(
            BrightnessSegmentor, "predict", lambda self, x: answers.jobs.cancel("me") and [self._scores(i) for i in x]
        )
        segment(answers, photo)


def test_visitors_at_once(answers, photo):
    wanted = {"a": "night, day", "b": "", "c": "one, two, three"}
    found = {}

    def visit(session):
        for _ in range(3):
            found[session] = segment(answers, photo, names=wanted[session], session=session).result.class_names

    threads = [threading.Thread(target=visit, args=(session,)) for session in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": ("night", "day"), "b": ("dark thing", "bright thing"), "c": ("one", "two", "three")}
