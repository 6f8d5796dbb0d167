import os
import sys

import pytest
from saved_models import mta_clip_config, segmenter

from mta_clip.cli.main import main


def test_options_reach_the_server(tmp_path, monkeypatch):
    server = pytest.importorskip("mta_clip.serving.server", exc_type=ImportError)
    monkeypatch.setenv("OMP_WAIT_POLICY", "to be restored")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    calls = []

    class Server:
        def run(self, **options):
            calls.append(options)
            raise KeyboardInterrupt

    monkeypatch.setattr(server, "build_server", lambda *given, **options: calls.append((*given, options)) or Server())
    saved = segmenter(mta_clip_config()).save(tmp_path / "saved")
    options = ["--batch-size", "2", "--max-queued", "9", "--replicas", "3", "--port", "8123"]
    assert main(["serve", "--model", str(saved), *options, "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "48"]) == 130
    (cfg, limits, given), run = calls
    assert cfg.INPUT.MIN_SIZE_TEST == 48 and cfg.MODEL.WEIGHTS.startswith(str(saved)) and given == {"replicas": 3}
    assert limits == server.Limits(batch_size=2, max_queued=9)
    assert (run["host"], run["port"]) == ("127.0.0.1", 8123)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_what_is_wrong_is_told(tmp_path, capsys):
    assert main(["serve", "--model", str(tmp_path / "gone")]) == 1
    assert f"{tmp_path / 'gone'} does not exist" in capsys.readouterr().err
    for options in (["--batch-size", "0"], ["--host", "example.org"]):
        with pytest.raises(SystemExit):
            main(["serve", "--model", "gone", *options])


def test_without_litserve(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "litserve", None)
    assert main(["serve", "--model", "me/streets"]) == 1  # as on the Hub, which is not asked
    assert "pip install 'mta-clip[serve]'" in capsys.readouterr().err
