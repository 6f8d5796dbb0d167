import contextlib
import sys

import pytest
from dataset_files import write_photos
from toy_predictor import make_config

from mta_clip.app import server
from mta_clip.cli import app
from mta_clip.cli.main import main


@pytest.fixture
def served(monkeypatch):
    """What `serving` is called with; Ctrl-C follows at once."""
    calls = []

    @contextlib.contextmanager
    def serving(answers, **options):
        calls.append((answers, options))
        yield "http://127.0.0.1:7860/"

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "serving", serving)
    monkeypatch.setattr(app, "import_extra", lambda *_: None)
    monkeypatch.setattr("threading.Event.wait", interrupted)
    return calls


def test_models_and_options_reach_the_page(served, tmp_path, caplog, capsys):
    caplog.set_level("INFO")
    photos = write_photos(tmp_path / "photos")
    _, weights = make_config(tmp_path)
    options = ["--examples", str(photos), "--port", "8123", "--max-pixels", "5000", "MODEL.DEVICE", "cpu"]
    assert main(["app", "--model", weights, *options]) == 130
    answers, given = served[0]
    assert answers.models.names == ["model.pth"] and answers.max_pixels == 5000
    assert given["host"] == "127.0.0.1" and given["port"] == 8123 and not given["share"]
    assert [path.rsplit("/", 1)[-1] for path in given["examples"]] == ["a.png", "b.jpg", "a.png"]
    assert "http://127.0.0.1:7860/ serves model.pth" in caplog.text


def test_what_is_wrong_is_told(served, tmp_path, capsys):
    _, weights = make_config(tmp_path)
    assert main(["app", "--model", weights, "--model", str(tmp_path / "gone")]) == 1
    assert main(["app", "--model", weights, "--examples", "gone.png"]) == 1
    errors = capsys.readouterr().err
    assert f"{tmp_path / 'gone'} does not exist" in errors and "--examples: gone.png: no such file" in errors


def test_without_gradio(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "--model", "me/streets"]) == 1  # as on the Hub, which is not asked
    assert "pip install 'mta-clip[app]'" in capsys.readouterr().err
