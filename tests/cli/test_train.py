"""`mta-clip train` from images on disk to the last line of its output, with a toy model."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_config import make_noise_config
from PIL import Image
from scripts import ROOT

from mta_clip.cli.main import main
from mta_clip.config_loader import load_config

SUPPORT = ROOT / "tests" / "support"
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, SUPPORT)))}


@pytest.fixture
def config_file(tmp_path):
    return make_noise_config(tmp_path)


@pytest.fixture
def train(config_file):
    return lambda *arguments: main(["train", "--config-file", str(config_file), *arguments])


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


def same_weights(first, second) -> bool:
    weights, others = (torch.load(path)["model"] for path in (first, second))
    return all(torch.equal(value, others[name]) for name, value in weights.items())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_last_line_is_the_result(train, output, capfd):
    assert train() == 0
    last_line = capfd.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"mIoU \d+\.\d\d", last_line)
    report = json.loads((output / "metrics.json").read_text())
    assert last_line == f"mIoU {report['sem_seg/mIoU']:.2f}"


def test_resume_equals_an_uninterrupted_run(train, output, tmp_path):
    whole = tmp_path / "whole"
    train("OUTPUT_DIR", str(whole))
    output.mkdir()
    (output / "model_0000001.pth").write_bytes((whole / "model_0000001.pth").read_bytes())
    (output / "last_checkpoint").write_text("model_0000001.pth")
    assert train("--resume") == 0
    assert same_weights(whole / "model_final.pth", output / "model_final.pth")


def test_a_run_owns_its_folder(train, output, capsys):
    assert train() == 0
    before = contents(output)
    assert train("SOLVER.BASE_LR", "1.0") == 1
    said = capsys.readouterr().err
    assert "holds an earlier run" in said and "--resume" in said and "--overwrite" in said
    assert contents(output) == before


def test_overwriting_leaves_nothing_of_the_earlier_run(train, output):
    assert train() == 0
    (output / "notes.txt").write_text("mine")
    steps = len((output / "training_metrics.json").read_text().splitlines())
    assert train("--overwrite", "SOLVER.CHECKPOINT_PERIOD", "100") == 0
    assert [path.name for path in output.glob("*.pth")] == ["model_final.pth"]
    assert len((output / "training_metrics.json").read_text().splitlines()) == steps
    assert (output / "notes.txt").exists()


def test_a_run_that_cannot_start_leaves_the_folder_to_the_next_try(train, output):
    assert train("MODEL.WEIGHTS", "gone.pth") == 1
    assert train() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL.DEVICE", "nonsense"], "MODEL.DEVICE is 'nonsense'"),
        (["SOLVER.IMS_PER_BATCH", "0"], "SOLVER.IMS_PER_BATCH is 0"),
        (["DATASETS.TRAIN", "('nois',)"], "the dataset 'nois' is not registered"),
        (["OUTPUT_DIR", "{file}/below"], "cannot be written"),
    ],
)
def test_errors_of_the_user_are_one_message(train, arguments, message, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert train(*(argument.format(file=tmp_path / "file") for argument in arguments)) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("mta-clip train: error: ") and message in said[-1]
    assert not any("Traceback" in line for line in said)


def test_a_folder_of_photos(train, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("green\nred\n")
    assert train("--data", str(tmp_path), "--val-share", "0.5") == 0
    folder = Path("output", tmp_path.name)
    saved = load_config(str(folder), [])
    assert [len(entry["files"]) for entry in saved.DATASETS.FOLDERS] == [3, 3]
    assert "3 of its photos" in caplog.text
    assert (used := Path(re.search(r"predict --weights (\S+)", caplog.text)[1])).is_file() and used.parent == folder
    repeat = re.search(r"To repeat this run: mta-clip (.*)", caplog.text).group(1).split()
    assert main(repeat) == 0
    assert same_weights(folder / "model_final.pth", Path(f"{folder}_again", "model_final.pth"))


def test_values_that_are_no_classes(train, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("green\nred\n")
    for path in (tmp_path / "labels").iterdir():
        Image.fromarray(np.array(Image.open(path)) * 7).save(path)
    output = ("OUTPUT_DIR", str(tmp_path / "run"))
    assert train("--data", str(tmp_path), *output) == 1
    advice = re.search(r"--label-map '(\{.*?\})'", capsys.readouterr().err).group(1)
    assert train("--data", str(tmp_path), "--label-map", advice, *output) == 0
    assert load_config(str(tmp_path / "run"), []).DATASETS.FOLDERS[0]["label_map"] == {0: 0, 7: 1}
    with pytest.raises(SystemExit):
        train("--data", str(tmp_path), "--label-map", "11:255")
    with pytest.raises(SystemExit):
        train("--data", str(tmp_path), "--val-share", "1")
    assert "--val-share: 1.0 is not from 0" in capsys.readouterr().err


def test_a_folder_without_names(train, tmp_path, capsys):
    assert train("--data", str(tmp_path)) == 1
    assert "names.txt" in capsys.readouterr().err


def test_without_a_config(capsys):
    assert main(["train"]) == 1
    assert "no config is named" in capsys.readouterr().err


STEPS = ("SOLVER.MAX_ITER", "1000", "SOLVER.CHECKPOINT_PERIOD", "2000")
LONG = (*STEPS, "TEST.EVAL_PERIOD", "0", "SOLVER.LOG_PERIOD", "1")


def started(*arguments: str, folder, log) -> subprocess.Popen:
    """A long training, once it has taken its first steps, in a process group of its own."""
    command = [sys.executable, str(SUPPORT / "toy_train_net.py"), *arguments, *LONG, "OUTPUT_DIR", str(folder)]
    with log.open("w") as out:
        job = subprocess.Popen(command, env=ENVIRONMENT, stdout=out, stderr=out, start_new_session=True)
    deadline = time.monotonic() + 240
    metrics = folder / "training_metrics.json"
    while not (metrics.exists() and metrics.stat().st_size):
        assert job.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return job


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "processes"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_signals_save_a_checkpoint_that_resume_continues_exactly(
    train, config_file, output, tmp_path, signum, processes
):
    log = tmp_path / "log"
    job = started("--config-file", str(config_file), "--num-gpus", str(processes), folder=output, log=log)
    os.killpg(job.pid, signum)  # as a terminal does
    assert job.wait(timeout=60) == 128 + signum, log.read_text()
    said = log.read_text()
    assert "Traceback" not in said and "--resume continues" in said and f"stopped by {signum.name}" in said
    assert not (output / "model_final.pth").exists()
    if processes == 1:
        assert train("--resume", *LONG) == 0
        assert train("OUTPUT_DIR", str(tmp_path / "whole"), *LONG) == 0
        assert same_weights(output / "model_final.pth", tmp_path / "whole" / "model_final.pth")


def two_processes(way: str) -> list[list[str]]:
    """Commands, one per machine, that start two processes together."""
    script = str(SUPPORT / "toy_train_net.py")
    if way == "--num-gpus":
        return [[script, "--num-gpus", "2"]]
    if way == "torchrun":
        return [["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    return [[script, "--num-machines", "2", "--machine-rank", rank, "--dist-url", url] for rank in "01"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["--num-gpus", "torchrun", "two machines"])
def test_two_processes_end_as_one(way, train, config_file, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    jobs = [
        subprocess.Popen(
            [sys.executable, *start, "--config-file", str(config_file), "OUTPUT_DIR", str(folders[1])],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for start in two_processes(way)
    ]
    assert train("OUTPUT_DIR", str(folders[0])) == 0
    outputs = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs)
    report = json.loads((folders[0] / "metrics.json").read_text())
    assert f"mIoU {report['sem_seg/mIoU']:.2f}" in outputs[0].splitlines()
    one, two = (torch.load(folder / "model_final.pth")["model"] for folder in folders)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
