import pytest
import torch
from fake_cuda import _fake_backward, fake_cuda

WAITING = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "to the CPU": lambda x: x.cpu(),
    "to a list": lambda x: x.tolist(),
    "from the CPU": lambda x: torch.ones(3).to(x.device),
    "new numbers": lambda x: x.new_tensor([1.0, 2.0]),
    "an index on the CPU": lambda x: x[torch.tensor([0, 2])],
    "into the CPU": lambda x: torch.zeros(3).copy_(x),
}
FREE = {
    "sent": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "filled": lambda x: x.new_full((2,), 3.0),
    "a scalar of the CPU": lambda x: x * torch.tensor(2.0),
    "an index": lambda x: x[torch.arange(2, device=x.device)],
    "repeated": lambda x: x.repeat_interleave(2),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_is_counted(name):
    with fake_cuda() as gpu:
        x = torch.ones(3, device="cuda")
        WAITING[name](x)
        assert sum(gpu.waits.values()) == 1


@pytest.mark.parametrize("name", FREE)
def test_what_does_not_wait_is_not_counted(name):
    with fake_cuda() as gpu:
        assert FREE[name](torch.ones(3, device="cuda")).device.type == "cuda"
        assert not gpu.waits


def test_what_only_numbers_could_tell_is_refused():
    with fake_cuda():
        x = torch.ones(3, device="cuda")
        for sized_by_data in (torch.nonzero, torch.unique, lambda x: x[x > 0]):
            with pytest.raises(RuntimeError):
                sized_by_data(x)


def test_a_tensor_left_on_the_cpu_is_refused():
    with fake_cuda():
        x = torch.ones(3, device="cuda")
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.arange(3)


def test_tensors_of_the_cpu_have_their_numbers():
    with fake_cuda():
        assert torch.arange(4).sum().item() == 6 and torch.ones(2, device="cuda").tolist() == [0, 0]


def test_the_backward_pass_node_by_node_gives_the_gradients_of_the_engine():
    generator = torch.Generator().manual_seed(0)
    layer, images = torch.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5, generator=generator)

    def loss() -> torch.Tensor:
        maps = layer(images)
        scaled = (maps * layer.bias[:, None, None]).sigmoid()  # broadcast; the bias is used twice
        return scaled.amax() + (scaled.double() ** 2).sum() + sum(maps.split(2, dim=1)).mean()

    expected = torch.autograd.grad(loss(), list(layer.parameters()))
    for _ in range(2):  # gradients add up
        _fake_backward(loss())
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)
