import json
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the page needs pip install 'mta-clip[app]'")

from mta_clip.app.answers import Answers
from mta_clip.app.page import FILES, build_page, theme


class FakeModels(dict):
    names = ("toy", "mta")


@pytest.fixture
def answers(toy, mta):
    return Answers(FakeModels(toy=toy, mta=mta), max_pixels=2000)


@pytest.fixture
def page(answers):
    return build_page(answers)


def handler(page, name):
    return next(fn.fn for fn in page.fns.values() if fn.name == name)


def test_a_visit(page, photo):
    request = SimpleNamespace(session_hash="me")
    told = []
    segment = handler(page, "segment")
    values = segment(photo, "toy", "", "", 0.3, request, lambda *args, **more: told.append(args))
    answer, status, data, labels, overlay, coco, region = values
    assert "40 x 30 pixels" in status["value"] and data["classes"][0]["name"] == "bright thing" and len(told) > 1
    assert labels["value"].endswith("street_labels.png") and coco["visible"] and not region["visible"]
    redraw, explain = handler(page, "redraw"), handler(page, "explain")
    assert redraw(answer, SimpleNamespace(alpha=0.1, hidden=[1])) == overlay["value"]
    assert "bright thing" in explain(answer, SimpleNamespace(x=0.9, y=0.5))["value"]
    assert handler(page, "cancel")(request) == redraw(None, None) == explain(None, None)  # nothing to do


def test_errors_are_sentences_without_paths(page, tmp_path):
    (tmp_path / "text.png").write_text("text")
    path = str(tmp_path / "text.png")
    values = handler(page, "segment")(path, "toy", "", "", 0.3, SimpleNamespace(session_hash="me"), lambda *_, **__: 0)
    assert values[0] is None and values[2] is None
    assert 'role="alert">The image cannot be read (' in values[1]["value"] and str(tmp_path) not in values[1]["value"]


def test_the_field_of_names_follows_the_model(page, answers):
    chosen = next(fn.fn for fn in page.fns.values() if getattr(fn.fn, "args", None) == (answers,))
    model, names = chosen("mta")
    assert "MTA-CLIP" in model["info"] and names["interactive"]
    assert "cannot be loaded" in chosen("gone")[0]["info"]


def test_nothing_comes_from_elsewhere(page):
    text = json.dumps(page.get_config_file(), default=str)
    assert "googleapis" not in text and "cdn" not in text
    files = "".join(path.read_text() for path in [*FILES.glob("viewer/*"), FILES / "page.css"])
    assert "http" not in files and theme()._stylesheets == []


def test_gradio_wrote_nothing_beside_the_code(page):
    assert list(FILES.glob("*.pyi")) == []
