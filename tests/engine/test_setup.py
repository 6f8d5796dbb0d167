import random

import numpy as np
import pytest
import torch
import yaml

from mta_clip.engine.setup import argument_parser, load_config, setup


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump({"SOLVER": {"MAX_ITER": 12}, "MODEL": {"DEVICE": "cpu"}, "SEED": 5}))
    return path


def test_file_then_overrides(config_file):
    cfg = load_config(str(config_file), ["SOLVER.BASE_LR", "0.5", "INPUT.CROP.SIZE", "[64, 96]"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, list(cfg.INPUT.CROP.SIZE)) == (12, 0.5, [64, 96])


@pytest.mark.parametrize(
    ("key", "suggestion"), [("SOLVER.BASE_LRR", "SOLVER.BASE_LR"), ("MODEL.MAX_ITER", "SOLVER.MAX_ITER")]
)
def test_unknown_key_among_the_overrides(config_file, key, suggestion):
    with pytest.raises(KeyError, match=rf"unknown config key {key} .*did you mean .*{suggestion}"):
        load_config(str(config_file), [key, "1"])


def test_unknown_key_in_the_file(config_file):
    config_file.write_text("SOLVER:\n  MAX_ITERS: 3\n")
    with pytest.raises(KeyError, match=r"unknown config key SOLVER.MAX_ITERS .*base.yaml.*mean SOLVER.MAX_ITER"):
        load_config(str(config_file), [])


def test_unknown_section(config_file):
    with pytest.raises(KeyError, match=r"unknown config key SOLVERS.MAX_ITER .*did you mean SOLVER.MAX_ITER"):
        load_config(str(config_file), ["SOLVERS.MAX_ITER", "1"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.MAX_ITER"], "'SOLVER.MAX_ITER' has no partner"),
        (["SOLVER.MAX_ITER", "many"], "Type mismatch"),
    ],
)
def test_bad_values(config_file, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(str(config_file), overrides)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"no_such.yaml does not exist"):
        load_config("no_such.yaml", [])


def test_yaml_cannot_run_code(config_file, tmp_path):
    proof = tmp_path / "proof"
    config_file.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{proof}']\n")
    with pytest.raises(yaml.constructor.ConstructorError):
        load_config(str(config_file), [])
    assert not proof.exists()


@pytest.fixture
def arguments(config_file, tmp_path):
    def parse(*more: str):
        return argument_parser().parse_args(
            ["--config-file", str(config_file), *more, "OUTPUT_DIR", str(tmp_path / "new" / "out")]
        )

    return parse


def test_setup_saves_the_config_and_freezes_it(arguments, tmp_path):
    cfg = setup(arguments())
    assert cfg.is_frozen()
    saved = load_config(str(tmp_path / "new" / "out" / "config.yaml"), [])
    assert yaml.safe_load(saved.dump()) == yaml.safe_load(cfg.dump())
    log = (tmp_path / "new" / "out" / "log.txt").read_text()
    assert "on cpu" in log
    assert "Effective batch 16" in log


def test_setup_seeds_every_generator(arguments):
    draws = []
    for _ in range(2):
        setup(arguments())
        draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert draws[0] == draws[1]


def test_evaluation_does_not_scale_the_schedule(arguments):
    overrides = ("SOLVER.SCALE_TO_BATCH", "True", "SOLVER.IMS_PER_BATCH", "8")
    assert setup(arguments(*overrides)).SOLVER.MAX_ITER == 24
    assert setup(arguments("--eval-only", *overrides)).SOLVER.MAX_ITER == 12
