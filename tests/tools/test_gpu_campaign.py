import json
import re
import time
from pathlib import Path

import pytest
from scripts import ROOT, load_script

# Instead of gpu_stages.py: does what the stage's name says.
FAKE = """
import json, pathlib, sys, time
stage, file, rehearse = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--json") + 1]), "--rehearse" in sys.argv
calls = file.with_name("calls.txt")
calls.open("a").write(stage + "\\n")
content = {"rows": [{"stage": stage, "ms": 12.34567}], "notes": [f"rehearse {rehearse}"], "seconds": 0}
if stage == "tests":
    content["rows"].append({"stage": "bad", "error": "RuntimeError: a | b"})
if stage == "camvid":
    content["skipped"] = True
file.write_text(json.dumps(content | {"status": "running"}))
print("printed by", stage)
if stage == "inference":
    time.sleep(60)
if stage == "sampling":
    sys.exit(7)
if stage == "loading" and "--keep-errors" not in sys.argv:
    sys.exit(75)
"""


@pytest.fixture
def tools(monkeypatch):
    """Lets scripts import each other."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


@pytest.fixture
def campaign(tools, tmp_path, monkeypatch):
    tool = load_script("tools/gpu_campaign.py")
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(tool, "STAGES_SCRIPT", tmp_path / "fake.py")
    monkeypatch.setattr(tool.signal, "signal", lambda *_: None)  # pytest keeps its own
    return tool


def start(campaign, tmp_path, *options):
    return campaign.main(["--output", str(tmp_path / "out"), *options])


def statuses(campaign, tmp_path):
    return {stage.name: campaign.read(tmp_path / "out", stage.name).get("status") for stage in campaign.STAGES}


def shorten(campaign, monkeypatch, name, seconds):
    stages = [campaign.Stage(s.name, s.title, seconds if s.name == name else s.seconds) for s in campaign.STAGES]
    monkeypatch.setattr(campaign, "STAGES", tuple(stages))


def test_every_stage_leaves_its_results_however_it_ends(campaign, tmp_path, monkeypatch, capsys):
    shorten(campaign, monkeypatch, "inference", 3)  # s, of about 540
    begin = time.monotonic()
    assert start(campaign, tmp_path, "--rehearse") == 1
    assert time.monotonic() - begin < 60
    assert statuses(campaign, tmp_path) == {
        "smoke": "done",
        "tests": "1 failed",
        "inference": "cut off",
        "sampling": "failed (exit status 7; see sampling.log)",
        "training": "done",
        "loading": "done",
        "profile": "done",
        "camvid": "skipped",
    }
    report = (tmp_path / "out" / "results.md").read_text()
    printed = capsys.readouterr().out
    assert report in printed and "\nprinted by sampling\n" in printed and "\nprinted by smoke\n" not in printed
    assert (tmp_path / "out" / "calls.txt").read_text().split().count("loading") == 2, "goes on when the GPU was lost"
    inference = report.partition("## Inference")[2].partition("## ")[0]
    assert "cut off" in inference and "12.35" in inference and "- rehearse True" in inference
    assert "RuntimeError: a / b" in report  # no cell breaks the table
    assert "printed by smoke" in (tmp_path / "out" / "smoke.log").read_text()

    (tmp_path / "out" / "calls.txt").unlink()
    start(campaign, tmp_path, "--rehearse")
    calls = (tmp_path / "out" / "calls.txt").read_text().split()
    assert calls == ["tests", "inference", "sampling", "camvid"], "what is done is not done again"


def test_without_time_only_the_tables_are_written(campaign, tmp_path):
    assert start(campaign, tmp_path, "--minutes", "0") == 1
    assert set(statuses(campaign, tmp_path).values()) == {None}
    assert (tmp_path / "out" / "results.md").read_text().count("not started") == len(campaign.STAGES)


def test_stages_share_the_time_that_is_left(campaign, tmp_path, capsys):
    start(campaign, tmp_path, "--minutes", "18", "--stages", "smoke", "training", "profile")
    printed = capsys.readouterr().out
    assert "smoke: at most 450 s" in printed and re.search("profile: at most 10[678]. s", printed)
    assert sum(stage.seconds for stage in campaign.STAGES) == 60 * campaign.PLANNED_MINUTES


def test_the_options_reach_the_stage(campaign, tmp_path, monkeypatch):
    (tmp_path / "fake.py").write_text(
        "import json, pathlib, sys\n"
        "file = pathlib.Path(sys.argv[sys.argv.index('--json') + 1])\n"
        "file.write_text(json.dumps({'rows': [], 'argv': sys.argv[1:]}))"
    )
    assert start(campaign, tmp_path, "--stages", "smoke", "--official", "there", "--", "KEY", "-1") == 0
    argv = campaign.read(tmp_path / "out", "smoke")["argv"]
    args = load_script("tools/gpu_stages.py").parse_arguments(argv)
    assert (args.stage, args.official, args.opts) == ("smoke", Path("there"), ["KEY", "-1"])
    assert args.json == tmp_path / "out" / "smoke.json" and args.until > time.time() and not args.rehearse


@pytest.mark.slow
def test_the_rehearsal_succeeds(tools, tmp_path, monkeypatch):
    """All stages as on a GPU, in processes of their own, at tiny sizes on the CPU."""
    campaign = load_script("tools/gpu_campaign.py")
    monkeypatch.setattr(campaign.signal, "signal", lambda *_: None)
    monkeypatch.delenv("MTA_CLIP_GOLDEN_DEVICE", raising=False)
    assert start(campaign, tmp_path, "--rehearse", "--minutes", "60") == 0, (
        tmp_path / "out" / "results.md"
    ).read_text()
    assert set(statuses(campaign, tmp_path).values()) == {"done"}
    assert json.loads((tmp_path / "out" / "camvid.json").read_text())["rows"][0]["mIoU"] >= 0
