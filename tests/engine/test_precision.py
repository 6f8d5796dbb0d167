import pytest
import torch
from torch import nn
from toy_training import ToyTrainer, toy_cfg, train_toy

from mta_clip.engine.gradients import GradientClipper
from mta_clip.engine.precision import Precision


def test_float16_on_the_cpu_is_refused_with_advice(tmp_path):
    cfg = toy_cfg(tmp_path, **{"AMP.ENABLED": True, "AMP.DTYPE": "float16"})
    with pytest.raises(ValueError, match=r"needs a CUDA device.*bfloat16"):
        Precision(cfg)


def test_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'int8', expected one of"):
        Precision(toy_cfg(tmp_path, **{"AMP.ENABLED": True, "AMP.DTYPE": "int8"}))


def test_dtype_is_ignored_while_amp_is_off(tmp_path):
    assert Precision(toy_cfg(tmp_path, **{"AMP.DTYPE": "float16"})).dtype == torch.float32


def test_bfloat16_trains_on_the_cpu(tmp_path):
    amp = {"AMP.ENABLED": True, "AMP.DTYPE": "bfloat16"}
    layer = nn.Linear(2, 2)
    with Precision(toy_cfg(tmp_path, **amp)).autocast():
        assert layer(torch.zeros(1, 2)).dtype == torch.bfloat16
    reduced, full = train_toy(tmp_path / "bf16", **amp), train_toy(tmp_path / "fp32")
    for name, value in full.items():
        assert reduced[name].dtype == torch.float32
        torch.testing.assert_close(reduced[name], value, rtol=0.05, atol=0.05)
    assert any(not torch.equal(reduced[name], full[name]) for name in full)


def scaled_gradients(clip_value: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients and their norm after a clipped backward of 3x + 4y under a loss scaler."""
    parameters = [nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    precision = Precision(device="cpu")
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # what float16 has on CUDA
    precision.backward(3 * parameters[0] + 4 * parameters[1])
    precision.unscale(optimizer)
    norm = GradientClipper(clip_type="full_model", clip_value=clip_value)(parameters)
    gradients = torch.stack([p.grad.clone() for p in parameters])
    precision.step(optimizer)
    torch.testing.assert_close(torch.stack([p.detach() for p in parameters]), 1 - gradients)
    return gradients, norm


def test_clipping_sees_unscaled_gradients_under_a_loss_scaler():
    gradients, norm = scaled_gradients(clip_value=1.0)
    assert norm.item() == pytest.approx(5.0)
    torch.testing.assert_close(gradients, torch.tensor([0.6, 0.8]), rtol=1e-4, atol=0)


def test_overflowed_step_is_skipped_and_the_scale_lowered():
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision = Precision(device="cpu")
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    precision.backward(weight * torch.inf)
    precision.unscale(optimizer)
    GradientClipper(clip_type="full_model", clip_value=0.01)([weight])
    precision.step(optimizer)
    assert weight.item() == 1.0
    assert precision.gradients_may_overflow
    assert precision.state_dict()["scale"] == 512.0


@pytest.mark.gpu
def test_float16_trains_and_its_scaler_is_saved(tmp_path):
    cfg = toy_cfg(tmp_path, **{"AMP.ENABLED": True, "AMP.DTYPE": "float16"}).clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cuda"
    trainer = ToyTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert saved["trainer"]["grad_scaler"]["scale"] > 0


def test_a_gpu_without_bfloat16_says_what_to_set(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ValueError, match=r"does not support bfloat16: set SOLVER\.AMP\.DTYPE float16"):
        Precision(device="cuda", dtype=torch.bfloat16)


def test_a_step_may_be_skipped_under_a_loss_scaler():
    parameter = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    precision = Precision(device="cpu")
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in ("skip", "take"):
        optimizer.zero_grad()
        precision.backward(parameter * 0.5)
        precision.unscale(optimizer)
        precision.skip() if step == "skip" else precision.step(optimizer)
    assert parameter.item() == 0.5
