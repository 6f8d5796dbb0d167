"""One step by hand; test_trainer.py has whole runs."""

import copy
import socket

import pytest
import torch
import torch.multiprocessing as mp
from detectron2.utils.events import EventStorage
from torch import nn

from mta_clip.engine.distributed import unwrap_model, wrap_model
from mta_clip.engine.gradients import GradientClipper
from mta_clip.engine.precision import Precision
from mta_clip.engine.train_loop import TrainLoop


class Quadratic(nn.Module):
    """Its losses are `factor * weight ** 2` and 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))

    def forward(self, factor):
        return {"square": (factor * self.weight**2).sum(), "one": torch.ones(()) + 0 * self.weight.sum()}


class Mean(nn.Module):
    """Its losses are the mean of `factor * weight ** 2` over a batch, and the size of the whole batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))
        self.calls = []

    def forward(self, batch, whole=None):
        self.calls.append((batch, whole))
        return {"mean": (torch.tensor(batch) * self.weight**2).mean(), "size": torch.tensor(float(len(whole or batch)))}


def make_loop(clip_value=None, model=None, accumulate=1) -> TrainLoop:
    model = model or Quadratic()
    return TrainLoop(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.125, momentum=0.5),
        precision=Precision(device="cpu", dtype=torch.float32),
        clipper=GradientClipper(clip_type="full_model" if clip_value else None, clip_value=clip_value or 1.0),
        seed=3,
        accumulate=accumulate,
    )


def step(loop: TrainLoop, *batches) -> EventStorage:
    loop.batches = iter(batches)
    with EventStorage(loop.iter) as loop.storage:
        for _ in batches:
            loop.run_step()
    return loop.storage


def test_a_step_and_what_it_records():
    loop = make_loop()
    latest = {name: value for name, (value, _) in step(loop, 1.0).latest().items()}
    assert loop.model.weight.item() == 2 - 0.125 * 4
    assert latest.pop("data_time") >= 0
    assert latest == {"total_loss": 5, "square": 4, "one": 1, "grad_norm": 4}


def test_clipping_comes_before_the_step_and_the_norm_is_the_one_before():
    loop = make_loop(clip_value=0.8)
    assert step(loop, 1.0).latest()["grad_norm"][0] == 4
    assert loop.model.weight.item() == pytest.approx(2 - 0.125 * 0.8)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_a_batch_make_one_step(parts):
    loop, batch = make_loop(model=Mean(), accumulate=parts), [1.0, 2.0, 3.0, 4.0]
    latest = {name: value for name, (value, _) in step(loop, batch, batch).latest().items()}
    weight = 2 - 0.125 * 2.5 * 4  # then a second step, with momentum
    assert loop.model.weight.item() == weight - 0.125 * (0.5 * 10 + 2.5 * 2 * weight)
    assert (latest["mean"], latest["size"], latest["grad_norm"]) == (2.5 * weight**2, 4, 5 * weight)
    size = 4 // parts
    assert loop.model.calls[:parts] == [
        (batch[i * size : i * size + size], batch if parts > 1 else None) for i in range(parts)
    ]


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_non_finite_loss_is_named_before_the_weights_change(factor):
    loop = make_loop()
    with pytest.raises(FloatingPointError, match=r"at iteration 0 in square; .*Lower SOLVER\.BASE_LR"):
        step(loop, factor)
    assert loop.model.weight.item() == 2


def test_a_non_finite_gradient_is_named_before_the_weights_change():
    loop = make_loop()
    loop.model.weight.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(FloatingPointError, match="gradients became infinite or NaN at iteration 0 although"):
        step(loop, 1.0)
    assert loop.model.weight.item() == 2


def test_every_step_is_seeded_by_where_it_stands():
    loop, drawn = make_loop(), []
    loop.model.register_forward_hook(lambda *_: drawn.append(torch.rand(()).item()))
    step(loop, 1.0, 1.0)
    loop.iter = 1
    step(loop, 1.0)
    assert drawn[0] == drawn[1] != drawn[2]  # the loop that counts iterations is the trainer's


def test_state_comes_back():
    loop, other = make_loop(), make_loop()
    loop.iter = 4
    step(loop, 1.0)
    other.seed = 9
    other.load_state_dict(loop.state_dict())
    assert (other.iter, other.seed) == (4, 3)
    assert other.optimizer.state_dict()["state"] == loop.optimizer.state_dict()["state"] != {}


class Layers(nn.Module):
    """Uses its layers in another order than it has them, so that DistributedDataParallel arranges them anew."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(50, 50) for _ in range(3))

    def forward(self, batch):
        return {"square": self.second(self.first(self.third(batch).tanh()).tanh()).square().mean()}


def train_layers(model, start, batches):
    """Trains from iteration `start` in a new process group's wrapper; returns copies of the model after each step."""
    loop = TrainLoop(
        model=wrap_model(model),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        precision=Precision(device="cpu"),
        clipper=GradientClipper(clip_type=None),
        seed=3,
    )
    loop.start_iter, states = start, []
    for loop.iter in range(start, len(batches)):
        step(loop, batches[loop.iter])
        states.append(copy.deepcopy(unwrap_model(loop.model)))
    return states


def resume_in_process(rank, port):
    torch.set_num_threads(1)  # a forked process must not use the parent's thread pool
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=3, rank=rank)
    batches = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(rank))
    whole = train_layers(Layers(), 0, batches)
    resumed = train_layers(copy.deepcopy(whole[0]), 1, batches)
    for name, value in whole[-1].state_dict().items():
        assert torch.equal(resumed[-1].state_dict()[name], value), name
    torch.distributed.destroy_process_group()


def test_three_processes_resume_to_the_last_bit():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(resume_in_process, args=(port,), nprocs=3, start_method="fork")  # raises what they raise
