"""Synchronised BatchNorm against BatchNorm over the joined batch."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from mta_clip.modeling.clip import batch_norm
from mta_clip.modeling.clip.batch_norm import SyncBatchNorm2d, synchronize_batch_norm


def test_equals_batch_norm_over_all_processes(monkeypatch):
    """Two uneven batches; the all-reduce adds the other one's sums, with their gradient, in the same graph."""
    norm = nn.BatchNorm2d(3)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    modules = nn.ModuleList([copy.deepcopy(norm), copy.deepcopy(norm)])
    synchronize_batch_norm(modules)
    batches = [torch.randn(2, 3, 4, 5, requires_grad=True), (torch.randn(1, 3, 4, 5) * 3 + 1).requires_grad_()]

    def sums_of(x):
        count = torch.tensor([x.numel() / x.shape[1]])
        return torch.cat([x.sum(dim=(0, 2, 3)), x.square().sum(dim=(0, 2, 3)), count])

    monkeypatch.setattr(batch_norm.comm, "get_world_size", lambda: 2)
    outputs = []
    for module, other in zip(modules, reversed(batches), strict=True):
        add_other = lambda sums, other=other: sums + sums_of(other)  # noqa: E731
        monkeypatch.setattr(torch.distributed.nn.functional, "all_reduce", add_other)
        outputs.append(module(batches[len(outputs)]))
    joined = torch.cat([batch.detach() for batch in batches]).requires_grad_()
    expected = norm(joined)

    torch.testing.assert_close(torch.cat(outputs), expected, rtol=1e-5, atol=1e-5)
    for module in modules:
        torch.testing.assert_close(module.running_mean, norm.running_mean)
        torch.testing.assert_close(module.running_var, norm.running_var)
        assert module.num_batches_tracked == 1
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    torch.cat(outputs).backward(upstream)
    torch.testing.assert_close(torch.cat([batch.grad for batch in batches]), joined.grad, rtol=1e-4, atol=1e-5)
    # Each process has its share of the parameter gradients; DDP adds them up.
    torch.testing.assert_close(modules[0].weight.grad + modules[1].weight.grad, norm.weight.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(modules[0].bias.grad + modules[1].bias.grad, norm.bias.grad, rtol=1e-4, atol=1e-5)


def test_timms_batch_norm_keeps_its_activation(monkeypatch):
    """On two processes, of which each has half of the sums; and on one."""
    norm, images = BatchNormAct2d(4), torch.randn(2, 4, 3, 3)
    module = nn.Sequential(copy.deepcopy(norm))
    synchronize_batch_norm(module)
    assert torch.equal(module(images), norm(images))
    monkeypatch.setattr(batch_norm.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed.nn.functional, "all_reduce", lambda sums: 2 * sums)
    outputs = module(images)
    assert outputs.min() == 0
    torch.testing.assert_close(outputs, norm(images), rtol=1e-5, atol=1e-5)
    assert torch.equal(module.eval()(images).clamp(max=0), torch.zeros_like(images))


def test_is_batch_norm_in_one_process():
    norm = nn.BatchNorm2d(4)
    module = nn.Sequential(copy.deepcopy(norm))
    synchronize_batch_norm(module)
    assert type(module[0]) is SyncBatchNorm2d
    images = torch.randn(2, 4, 3, 3)
    assert torch.equal(module(images), norm(images))
    assert torch.equal(module[0].running_var, norm.running_var)
    assert torch.equal(module.eval()(images), norm.eval()(images))


def test_other_batch_norms_are_refused():
    class WithActivation(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match="0 is a WithActivation"):
        synchronize_batch_norm(nn.Sequential(WithActivation(2)))
