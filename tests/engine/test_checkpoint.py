import pytest
import torch
from toy_training import ToySegmentor, toy_cfg, train_toy

from mta_clip.checkpoint import CheckpointError
from mta_clip.engine.checkpoint import load_for_evaluation


def evaluation_cfg(folder, weights: str = ""):
    cfg = toy_cfg(folder).clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    return cfg


def test_named_weights_are_loaded(tmp_path):
    trained = train_toy(tmp_path, MAX_ITER=2)
    cfg = evaluation_cfg(tmp_path / "elsewhere", str(tmp_path / "model_final.pth"))
    model = ToySegmentor(cfg)
    load_for_evaluation(cfg, model, resume=False)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())


def test_resume_takes_the_last_checkpoint(tmp_path):
    trained = train_toy(tmp_path, MAX_ITER=2)
    cfg = evaluation_cfg(tmp_path)
    model = ToySegmentor(cfg)
    load_for_evaluation(cfg, model, resume=True)
    assert torch.equal(model.queries.weight, trained["queries.weight"])


@pytest.mark.parametrize("resume", [False, True])
def test_no_weights_is_an_error(tmp_path, resume):
    cfg = evaluation_cfg(tmp_path)
    with pytest.raises(ValueError, match=r"--eval-only needs weights: set MODEL\.WEIGHTS"):
        load_for_evaluation(cfg, ToySegmentor(cfg), resume=resume)


def test_missing_file_is_an_error(tmp_path):
    cfg = evaluation_cfg(tmp_path, str(tmp_path / "nothing.pth"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        load_for_evaluation(cfg, ToySegmentor(cfg), resume=False)


def test_lacking_trained_parameters_is_an_error_but_frozen_ones_may_lack(tmp_path):
    cfg = evaluation_cfg(tmp_path, str(tmp_path / "weights.pth"))
    model = ToySegmentor(cfg)
    weights = model.state_dict()
    del weights["norm.weight"]
    torch.save({"model": weights}, cfg.MODEL.WEIGHTS)
    with pytest.raises(CheckpointError, match=r"lacks 1 trained parameters of the model: norm\.weight"):
        load_for_evaluation(cfg, model, resume=False)
    model.norm.requires_grad_(False)
    load_for_evaluation(cfg, model, resume=False)
