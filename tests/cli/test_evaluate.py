import json
import re

import pytest
import yaml
from noise_config import make_noise_config
from toy_training import SIDE

from mta_clip.cli.main import main


@pytest.fixture
def config_file(tmp_path):
    return make_noise_config(tmp_path)


@pytest.fixture
def run(config_file):
    return lambda command, *arguments: main([command, "--config-file", str(config_file), *arguments])


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


def contents(folder):
    """All files but the log, which in one process goes on."""
    files = (path for path in folder.iterdir() if path.is_file() and path.name != "log.txt")
    return {path.name: path.read_bytes() for path in files}


def miou(folder):
    return json.loads((folder / "metrics.json").read_text())["sem_seg/mIoU"]


def test_it_repeats_the_result_of_the_training_in_a_folder_of_its_own(run, output, capfd):
    assert run("train") == 0
    last_line = capfd.readouterr().out.splitlines()[-1]
    before = contents(output)
    assert run("evaluate", "--weights", str(output / "model_final.pth")) == 0
    assert capfd.readouterr().out.splitlines()[-1] == last_line
    assert contents(output) == before
    assert miou(output / "eval" / "model_final" / "noise") == miou(output)


@pytest.mark.parametrize("way", ["folder", "checkpoint", "resume"])
def test_ways_to_name_the_model(run, output, way):
    assert run("train") == 0
    weights = {
        "folder": ["--config-file", str(output)],
        "checkpoint": ["--weights", str(output / "model_0000001.pth")],
        "resume": ["--config-file", str(output), "--resume"],
    }
    assert main(["evaluate", *weights[way]]) == 0
    name = "model_0000001" if way == "checkpoint" else "model_final"
    assert (output / "eval" / name / "noise" / "metrics.json").is_file()


def test_a_folder_that_was_moved(run, output, tmp_path):
    assert run("train") == 0
    moved = output.rename(tmp_path / "moved")
    assert main(["evaluate", "--config-file", str(moved)]) == 0
    assert (moved / "eval" / "model_final" / "noise" / "metrics.json").is_file() and not output.exists()


def test_without_weights(run, capsys):
    assert run("evaluate") == 1
    assert "MODEL.WEIGHTS is empty: name a trained model" in capsys.readouterr().err
    assert run("evaluate", "--resume") == 1
    assert "this folder has no checkpoint" in capsys.readouterr().err
    assert main(["evaluate"]) == 1
    assert "no model is named" in capsys.readouterr().err


def test_several_test_sets_have_folders_of_their_own(run, output, config_file):
    config = yaml.safe_load(config_file.read_text())
    config["DATASETS"]["FOLDERS"].append(config["DATASETS"]["FOLDERS"][0] | {"name": "noise_again"})
    config["DATASETS"]["TEST"].append("noise_again")
    config_file.write_text(yaml.safe_dump(config))
    assert run("train") == 0
    assert miou(output / "noise") == miou(output / "noise_again")
    assert run("evaluate", "--resume") == 0
    assert miou(output / "eval" / "model_final" / "noise_again") == miou(output / "noise")


def test_augmented_evaluation_has_a_name_and_a_folder_of_its_own(run, output, capfd):
    augmentation = ("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", f"({SIDE},)")
    assert run("train", *augmentation) == 0
    assert re.findall(r"mIoU \d+\.\d\d$", capfd.readouterr().out) == [f"mIoU {miou(output):.2f}"]
    assert run("evaluate", "--resume", *augmentation, "TEST.SEM_SEG.LABEL_MAPS_ONLY", "True") == 0
    evaluated = output / "eval" / "model_final" / "noise"
    assert (miou(evaluated), miou(evaluated / "tta")) == (miou(output), miou(output / "tta"))
