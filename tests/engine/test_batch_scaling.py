import logging
import re

import pytest
from scripts import ROOT

from mta_clip.config import get_cfg
from mta_clip.engine.batch_scaling import ITERATION_KEYS, OTHER_ITERATION_KEYS, scale_to_batch


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.REFERENCE_BATCH = 16
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.POLY_LR_MIN = 1e-6
    cfg.SOLVER.MAX_ITER = 1000
    cfg.SOLVER.WARMUP_ITERS = 15
    cfg.SOLVER.STEPS = (600, 900)
    cfg.SOLVER.CHECKPOINT_PERIOD = 100
    cfg.TEST.EVAL_PERIOD = 0
    cfg.MODEL.TAGCLIP.PSEUDO_LABELS_FROM_ITER = 500
    return cfg


def keys_of(node, prefix=""):
    """All keys but switches."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{name}.")
        elif not isinstance(value, bool):
            yield prefix + name


def keys_described_in_iterations():
    """Last parts of the keys whose comment in config.py, beside or above them, speaks of iterations."""
    comment = ""
    for line in (ROOT / "mta_clip" / "config.py").read_text().splitlines():
        code, _, text = line.strip().partition("#")
        comment += text
        if not code:
            continue
        if (key := re.match(r"[\w.]+\.([A-Z_]+) = ", code)) and re.search(r"\biterations?\b", comment):
            yield key[1]
        comment = ""


def test_every_key_in_iterations_is_listed():
    described = set(keys_described_in_iterations())
    assert {"PSEUDO_LABELS_FROM_ITER", "LOG_PERIOD"} <= described
    named = re.compile(r"(^|_)(ITERS?|STEPS|PERIOD)$")
    found = {key for key in keys_of(get_cfg()) if named.search(name := key.rpartition(".")[2]) or name in described}
    assert found == {*ITERATION_KEYS, *OTHER_ITERATION_KEYS}


def test_off_by_default_and_said(cfg, caplog):
    before = cfg.dump()
    with caplog.at_level(logging.INFO):
        scale_to_batch(cfg)
    assert cfg.dump() == before
    assert "Effective batch 4 = 1 process(es) x 4 images" in caplog.text
    assert "SCALE_TO_BATCH is off" in caplog.text


def test_a_quarter_of_the_batch_takes_four_times_the_iterations(cfg, caplog):
    cfg.SOLVER.SCALE_TO_BATCH = True
    with caplog.at_level(logging.INFO):
        scale_to_batch(cfg)
    assert pytest.approx(2.5e-5) == cfg.SOLVER.BASE_LR
    assert pytest.approx(2.5e-7) == cfg.SOLVER.POLY_LR_MIN
    assert cfg.SOLVER.MAX_ITER == 4000
    assert cfg.SOLVER.WARMUP_ITERS == 60
    assert cfg.SOLVER.STEPS == (2400, 3600)
    assert cfg.SOLVER.CHECKPOINT_PERIOD == 400
    assert cfg.MODEL.TAGCLIP.PSEUDO_LABELS_FROM_ITER == 2000  # still half of the run
    assert cfg.TEST.EVAL_PERIOD == 0  # never stays never
    assert "scaled from batch 16" in caplog.text
    assert "SOLVER.MAX_ITER 4000" in caplog.text and "PSEUDO_LABELS_FROM_ITER 2000" in caplog.text


def test_a_saved_config_does_not_scale_again(cfg):
    cfg.SOLVER.SCALE_TO_BATCH = True
    scale_to_batch(cfg)
    once = cfg.dump()
    scale_to_batch(cfg)
    assert cfg.dump() == once


def test_reference_must_be_positive(cfg):
    cfg.SOLVER.SCALE_TO_BATCH = True
    cfg.SOLVER.REFERENCE_BATCH = 0
    with pytest.raises(ValueError, match="REFERENCE_BATCH is 0"):
        scale_to_batch(cfg)
