"""One process; test_launch.py has what two of them share."""

import torch
from torch import nn

from mta_clip.engine.distributed import broadcast_buffers, gather_rows, unwrap_model, wrap_model


def test_one_process_has_no_wrapper():
    model = nn.Linear(2, 1)
    assert wrap_model(model, find_unused_parameters=True) is model and unwrap_model(model) is model


def test_one_process_gathers_its_own_row():
    assert torch.equal(gather_rows(torch.tensor([1.0, 2.0])), torch.tensor([[1.0, 2.0]]))


def test_one_process_keeps_its_buffers():
    norm = nn.BatchNorm1d(2)
    norm.running_mean += 3
    broadcast_buffers(norm)
    assert norm.running_mean.tolist() == [3, 3]


def test_a_group_of_one_wraps_and_unwraps(monkeypatch, tmp_path):
    """Two processes are said to be there; the wrapper itself works with the one of the group."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
        wrapped = wrap_model(model, find_unused_parameters=True)
        assert wrapped is not model and unwrap_model(wrapped) is model
        assert wrapped.find_unused_parameters and not wrapped.broadcast_buffers
        wrapped(torch.ones(4, 2)).sum().backward()
        assert model[0].weight.grad is not None
        broadcast_buffers(model)
    finally:
        torch.distributed.destroy_process_group()
