"""The command line from images on disk to the last line of its output, with a toy model."""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scripts import ROOT
from toy_training import SIDE

from mta_clip.cli import evaluate, train
from mta_clip.cli.options import parse

SUPPORT = ROOT / "tests" / "support"


@pytest.fixture
def config_file(tmp_path) -> Path:
    """Six images of noise whose labels the toy model can learn: is there more red than green?"""
    generator = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        image = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray((image[..., 0] > image[..., 1]).astype(np.uint8)).save(tmp_path / "labels" / f"{i}.png")
    entry = {
        "name": "noise",
        "image_dir": str(tmp_path / "images"),
        "label_dir": str(tmp_path / "labels"),
        "classes": ["green", "red"],
    }
    config = {
        "MODEL": {"META_ARCHITECTURE": "ToySegmentor", "DEVICE": "cpu", "SEM_SEG_HEAD": {"NUM_CLASSES": 2}},
        "DATASETS": {"FOLDERS": [entry], "TRAIN": ["noise"], "TEST": ["noise"]},
        "INPUT": {"MIN_SIZE_TRAIN": [SIDE], "MIN_SIZE_TEST": SIDE, "CROP": {"ENABLED": False}},
        "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 4, "CHECKPOINT_PERIOD": 2, "BASE_LR": 0.05},
        "TEST": {"EVAL_PERIOD": 3},
        "DATALOADER": {"NUM_WORKERS": 0},
        "SEED": 3,
        "OUTPUT_DIR": str(tmp_path / "output"),
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def command(config_file):
    """Trains, or evaluates, in this process; returns the results."""

    def run(*arguments: str, module=train):
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        work = train.train if module is train else evaluate.evaluate_trained
        return work(parse(parser, ["--config-file", str(config_file), *arguments]))

    return run


def test_train_then_evaluate(command, tmp_path, capfd):
    trained = command()
    last_line = capfd.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"mIoU \d+\.\d\d", last_line)
    assert last_line == f"mIoU {trained['sem_seg']['mIoU']:.2f}"
    report = json.loads((tmp_path / "output" / "metrics.json").read_text())
    assert report["sem_seg/mIoU"] == pytest.approx(trained["sem_seg"]["mIoU"])

    evaluated = command("MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth"), module=evaluate)
    assert evaluated["sem_seg"]["mIoU"] == trained["sem_seg"]["mIoU"]
    assert capfd.readouterr().out.splitlines()[-1] == last_line


def test_resume_equals_an_uninterrupted_run(command, tmp_path):
    whole = tmp_path / "whole"
    command("OUTPUT_DIR", str(whole))
    output = tmp_path / "output"
    output.mkdir()
    (output / "model_0000001.pth").write_bytes((whole / "model_0000001.pth").read_bytes())
    (output / "last_checkpoint").write_text("model_0000001.pth")
    command("--resume")
    first, second = (torch.load(folder / "model_final.pth")["model"] for folder in (whole, output))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_evaluation_without_weights_is_an_error(command):
    with pytest.raises(ValueError, match="--eval-only needs weights"):
        command(module=evaluate)


def test_several_test_sets_have_folders_of_their_own(command, tmp_path, config_file):
    config = yaml.safe_load(config_file.read_text())
    config["DATASETS"]["FOLDERS"].append(config["DATASETS"]["FOLDERS"][0] | {"name": "noise_again"})
    config["DATASETS"]["TEST"].append("noise_again")
    config_file.write_text(yaml.safe_dump(config))
    results = command()
    assert results["noise"]["sem_seg"] == results["noise_again"]["sem_seg"]
    assert (tmp_path / "output" / "noise_again" / "metrics.json").is_file()


def test_augmented_evaluation_has_a_name_and_a_folder_of_its_own(command, tmp_path, capfd):
    augmentation = ("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", f"({SIDE},)")
    results = command(*augmentation)
    assert set(results) == {"sem_seg", "sem_seg_TTA"}
    report = json.loads((tmp_path / "output" / "tta" / "metrics.json").read_text())
    assert report["sem_seg/mIoU"] == pytest.approx(results["sem_seg_TTA"]["mIoU"])
    weights = ("MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth"))
    labels_only = command(*weights, *augmentation, "TEST.SEM_SEG.LABEL_MAPS_ONLY", "True", module=evaluate)
    assert labels_only == results
    assert capfd.readouterr().out.splitlines()[-1] == f"mIoU {results['sem_seg']['mIoU']:.2f}"


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
def test_two_processes_end_as_one(way, command, config_file, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    jobs = [
        subprocess.Popen(
            [sys.executable, *start, "--config-file", str(config_file), "OUTPUT_DIR", str(folders[1])],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, SUPPORT)))},
            stdout=subprocess.PIPE,
            text=True,
        )
        for start in two_processes(way)
    ]
    results = command("OUTPUT_DIR", str(folders[0]))
    outputs = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs)
    assert f"mIoU {results['sem_seg']['mIoU']:.2f}" in outputs[0].splitlines()
    one, two = (torch.load(folder / "model_final.pth")["model"] for folder in folders)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
