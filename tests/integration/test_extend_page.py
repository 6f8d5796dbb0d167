"""The examples of docs/extend.md: the page's files and commands are run as they stand there, on a miniature."""

import csv
import importlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from miniatures import make_miniature
from page_blocks import blocks, commands
from scripts import ROOT

import mta_clip
from mta_clip.cli.main import main
from mta_clip.modeling.criterion import SIMILARITY_LOSSES

BLOCKS = blocks("docs/extend.md")
FILES = {block.code.split()[1]: block.code for block in BLOCKS if block.language == "python"}  # "# my_encoder.py ..."
COMMANDS = [words for block in BLOCKS if block.language == "bash" for words in commands(block.code)]
TRAININGS = [words for words in COMMANDS if "train" in words]
ONE_STEP = (
    *("MODEL.DEVICE", "cpu", "MODEL.CLIP.IMAGE_PRETRAINED", ""),  # no download
    *("SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"),
    *("INPUT.MIN_SIZE_TRAIN", "(64, 96)", "INPUT.MIN_SIZE_TEST", "64", "INPUT.CROP.SIZE", "(64, 64)"),
    *("INPUT.SIZE_DIVISIBILITY", "64", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "64", "SOLVER.LOG_PERIOD", "1"),
)


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    """A working directory with the page's files, streets/ and survey.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in FILES.items():
        Path(name).write_text(code, encoding="utf-8")
    make_miniature("own", tmp_path)
    Path("own").rename("streets")
    with open("survey.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("photo", "labels", "split"))
        for photo in sorted(Path("streets").glob("*/images/*")):
            split = photo.parents[1].name
            rows.writerow((photo, f"streets/{split}/labels/{photo.stem}_mask.png", split))
    return tmp_path


@pytest.fixture
def run(user_folder, monkeypatch):
    """Runs a command of the page in this process; returns its exit status."""

    def run(program: str, *arguments: str) -> int:
        if program == "mta-clip":
            return main(arguments)
        monkeypatch.setattr(sys, "argv", list(arguments))
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(arguments[0], run_name="__main__")
        return stopped.value.code

    return run


def test_the_page_has_the_files_that_it_speaks_of():
    assert list(FILES) == ["mine.py", "my_encoder.py", "my_loss.py", "my_masks.py", "survey.py"]
    assert len(TRAININGS) == 5
    assert all(len(code.splitlines()) <= 30 for code in FILES.values())


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, id=name, marks=[pytest.mark.slow] if name in ("timm", "FocalMixNeg") else [])
        for command in TRAININGS
        for name in [command[-1]]
    ],
)
def test_the_command_trains_a_step_and_evaluates(command, run, user_folder):
    output = user_folder / "run"  # another one each time: loggers keep files open by name
    assert run(*command, *ONE_STEP, "OUTPUT_DIR", str(output)) == 0
    assert "mIoU" in (output / "metrics.json").read_text()
    trained = mta_clip.load(output)
    assert trained.class_names == ("road", "my cat", "sky")
    assert trained("streets/val/images/0.png").labels.max() <= 2
    log, weights = (output / "log.txt").read_text(), torch.load(output / "model_final.pth")["model"]
    assert ("backbone.stages.3.1.weight" in weights) == ("SmallEncoder" in command)
    assert any("s4.b1.conv1" in name for name in weights) == ("timm" in command)
    assert (trained.config.MODEL.MTA.SIMILARITY_LOSS == "FocalMixNeg") == ("FocalMixNeg" in command)
    assert bool(re.search(r"loss_outline: 0\.\d*[1-9]", log)) == ("SmoothMTACLIP" in command)
    assert ("survey_val" in log) == ("('survey_val',)" in command)


def test_the_similarity_loss_is_less_for_what_is_right(user_folder):
    importlib.import_module("my_loss")
    focal, mix_neg = (SIMILARITY_LOSSES.get(name) for name in ("FocalMixNeg", "MixNeg"))
    logits, labels = torch.randn(2, 6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    probability = (-mix_neg(logits, labels)).exp()
    torch.testing.assert_close(focal(logits, labels), (1 - probability) ** 2 * -probability.log())


def test_the_checker_reads_the_dataset(run, caplog):
    (check,) = (command for command in COMMANDS if "check" in command)
    assert run(*check, "--workers", "1") == 0
    assert "3 pairs of image and label map" in caplog.text and "my cat" in caplog.text


@pytest.mark.slow
def test_two_processes_know_the_pieces_too(user_folder):
    command = [sys.executable, *TRAININGS[0][1:], "--num-gpus", "2", *ONE_STEP]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "mIoU" in done.stdout.splitlines()[-1]
