import json
import subprocess
import sys
import threading
import time

import pytest
import yaml
from scripts import ROOT, load_script

from mta_clip.config_loader import load_config

LIST = ROOT / "tools" / "experiments" / "camvid.yaml"

# Instead of train_net.py: notes how it was called, then does what the config's name says.
FAKE = """
import json, os, pathlib, sys, time
options = sys.argv[1:]
config = options[options.index("--config-file") + 1]
folder = pathlib.Path(options[options.index("OUTPUT_DIR") + 1])
with open(folder / "calls.txt", "a") as calls:
    calls.write(json.dumps([os.environ["OMP_NUM_THREADS"], *options]) + "\\n")
if config == "breaks" and len((folder / "calls.txt").read_text().splitlines()) == 1:
    sys.exit(3)
if config == "waits":
    time.sleep(60)
seed = int(options[options.index("SEED") + 1])
(folder / "config.yaml").write_text("SOLVER: {MAX_ITER: 40}")
(folder / "training_metrics.json").write_text('{"iteration": 19, "time": 0.5}\\n{"iteration": 39, "time": 0.7}\\n')
metrics = {"mIoU": 50 + seed, "boundary_mIoU": 30 + seed, "IoU-road": 90, "IoU-pole": None}
(folder / "metrics.json").write_text(json.dumps({"sem_seg/" + name: value for name, value in metrics.items()}))
for name in ("model_0000019.pth", "model_final.pth"):
    (folder / name).touch()
"""


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/run_experiments.py")


@pytest.fixture
def start(tool, tmp_path, monkeypatch):
    """Calls the tool on a list of three experiments with two seeds; returns the exit status."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(tool, "COMMAND", (sys.executable, str(tmp_path / "fake.py")))
    experiments = {
        "plain": {"config": "works"},
        "text": {"config": "works", "overrides": {"MODEL.MTA.TEMPERATURE": 1.0, "MODEL.PROMPT.TEMPLATES": ["a {}"]}},
        "weak": {"config": "breaks"},
    }
    sets = {name: {"experiments": [*names], "seeds": [1, 2], "baseline": "plain"} for name, names in SETS.items()}
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({"experiments": experiments, "sets": sets}))

    def call(*arguments: str) -> int:
        monkeypatch.setattr(tool.signal, "signal", lambda *_: None)  # pytest keeps its own
        return tool.main(["--list", str(tmp_path / "list.yaml"), "--output", str(tmp_path / "out"), *arguments])

    return call


SETS = {"good": ("plain", "text"), "all": ("plain", "text", "weak")}


def calls(folder) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls.txt").read_text().splitlines()]


def test_trains_each_experiment_with_each_seed(start, tmp_path):
    assert start("--set", "good", "--jobs", "2", "--threads", "3", "--", "SOLVER.MAX_ITER", "40") == 0
    folder = tmp_path / "out" / "text" / "seed2"
    ((threads, *options),) = calls(folder)
    overrides = ["MODEL.MTA.TEMPERATURE", "1.0", "MODEL.PROMPT.TEMPLATES", "['a {}']", "SOLVER.MAX_ITER", "40"]
    assert threads == "3"
    assert options == ["--config-file", "works", "--resume", *overrides, "SEED", "2", "OUTPUT_DIR", str(folder)]
    record = json.loads((folder / "run.json").read_text())
    assert record.pop("seconds") > 0 and record.pop("peak_memory_mb") > 0
    assert (
        record.pop("commit")[:7]
        in subprocess.run(["git", "log", "-1", "--format=%H"], cwd=ROOT, capture_output=True, text=True).stdout
    )
    assert record == {
        "experiment": "text",
        "config": "works",
        "overrides": overrides,
        "seed": 2,
        "done": True,
        "iterations": 40,
        "seconds_per_iteration": 0.6,
        "metrics": {"mIoU": 52, "boundary_mIoU": 32, "IoU-road": 90, "IoU-pole": None},
    }
    assert [path.name for path in folder.glob("*.pth")] == ["model_final.pth"]
    assert len([*tmp_path.glob("out/*/*/run.json")]) == 4


def test_what_failed_continues_and_what_is_done_does_not(start, tmp_path):
    assert start("--set", "all") == 1
    broken = tmp_path / "out" / "weak" / "seed1"
    first = json.loads((broken / "run.json").read_text())
    assert not first["done"] and "metrics" not in first
    assert start("--set", "all") == 0
    second = json.loads((broken / "run.json").read_text())
    assert second["done"] and second["seconds"] > first["seconds"]
    assert [len(calls(tmp_path / "out" / name / "seed1")) for name in ("plain", "text", "weak")] == [1, 1, 2]


def test_a_folder_of_other_settings_is_refused(start, tmp_path):
    assert start("--set", "good", "--seeds", "2") == 0
    with pytest.raises(ValueError, match=r"seed2/run.json is of a run with another overrides: \[\], now \['SOLVER"):
        start("--set", "good", "--", "SOLVER.MAX_ITER", "40")
    assert not (tmp_path / "out" / "plain" / "seed1").exists()


def test_stopping_ends_what_runs_and_starts_nothing_else(start, tool, tmp_path):
    runner = tool.Runner(threads=1)
    runs = [tool.Run("slow", "waits", (), seed, tmp_path / f"seed{seed}") for seed in (1, 2)]
    done = []
    thread = threading.Thread(target=lambda: done.extend(map(runner.train, runs)))
    thread.start()
    while not (runs[0].folder / "calls.txt").exists():
        time.sleep(0.01)
    runner.stop()
    thread.join(timeout=30)
    assert done == [False, False] and not runs[1].folder.exists()
    assert not runs[0].record()["done"]


def test_the_command_prints_tables(start, capsys):
    assert start("--set", "good") == 0
    assert start("--set", "good", "--table", "--", "SOLVER.MAX_ITER", "99") == 0  # shows what there is
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| | seeds | mIoU | boundary mIoU | mIoU against plain |"
    assert lines[2] == "| plain | 2 | 51.50 ± 0.71 | 31.50 ± 0.71 |  |"
    assert lines[3] == "| text | 2 | 51.50 ± 0.71 | 31.50 ± 0.71 | +0.00 (2 seeds) |"
    assert lines[5:9] == ["| IoU | road | pole |", "|---|---|---|", "| plain | 90.0 | - |", "| text | 90.0 | - |"]


def test_without_a_finished_run_there_is_no_table(start, capsys):
    with pytest.raises(SystemExit):
        start("--set", "good", "--table")
    assert "no run of the set 'good' is done yet" in capsys.readouterr().err


def results(**experiments: list[float]) -> dict:
    return {name: {seed: {"mIoU": value} for seed, value in enumerate(values)} for name, values in experiments.items()}


def test_significance_is_paired_and_corrected(tool):
    """p of paired differences 1, 2, 3 is 0.074; of 1.0, 1.1, 0.9 it is 0.0033, twice that with two comparisons."""
    base = [50.0, 60.0, 70.0]  # seeds differ by more than anything else
    told = tool.comparison(results(base=base, wide=[51.0, 62.0, 73.0], sure=[51.0, 61.1, 70.9]), "base", "mIoU")
    assert told == {
        "wide": "+2.00 (not significant, p = 0.074)",
        "sure": "+1.00 (significant, p = 0.007)",
    }


def test_boundaries_need_not_be_measured(tool):
    lines = tool.tables(results(base=[50.0, 60.0], other=[51.0, 62.0]), "base").splitlines()
    assert lines[0] == "| | seeds | mIoU | mIoU against base |"
    assert lines[3] == "| other | 2 | 56.50 ± 7.78 | +1.50 (2 seeds) |"


def test_two_seeds_are_too_few_for_a_test(tool):
    told = tool.comparison(results(base=[50.0, 60.0], steady=[51.0, 61.001]), "base", "mIoU")
    assert told == {"steady": "+1.00 (2 seeds)"}


def test_seeds_without_a_partner_are_not_compared(tool):
    told = tool.comparison(results(base=[50.0], more=[49.0, 80.0]), "base", "mIoU")
    assert told == {"more": "-1.00 (1 seed)"}
    assert tool.comparison(results(more=[49.0, 80.0]), "base", "mIoU") == {}


def test_errors_of_a_list(tool, tmp_path):
    content = {"experiments": {"a": {"config": "x"}}, "sets": {"s": {"experiments": ["a", "b"], "baseline": "c"}}}
    file = tmp_path / "list.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="no set 't'; its sets: s"):
        tool.read_list(file, "t")
    with pytest.raises(ValueError, match="set s names b, which"):
        tool.read_list(file, "s")
    content["experiments"]["b"] = {"config": "x"}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="baseline c of set s is none"):
        tool.read_list(file, "s")


@pytest.mark.parametrize("chosen", yaml.safe_load(LIST.read_text())["sets"])
def test_the_shipped_list_fits_the_configs(tool, chosen):
    group = tool.read_list(LIST, chosen)
    for name, experiment in group["runs"].items():
        cfg = load_config(str(ROOT / experiment["config"]), tool.flat(experiment.get("overrides", {})))
        plain = load_config(str(ROOT / experiment["config"]), [])
        assert (cfg != plain) == ("overrides" in experiment), name
