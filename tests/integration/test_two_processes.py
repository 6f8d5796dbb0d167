"""Two gloo processes with half of the batch each, in one or two parts, train as one process with all of it."""

from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tiny_models import batch, same_points, tiny_config, tiny_model

from mta_clip.engine.distributed import wrap_model
from mta_clip.engine.gradients import GradientClipper
from mta_clip.engine.launch import launch
from mta_clip.engine.optimizer import build_optimizer
from mta_clip.engine.precision import Precision
from mta_clip.engine.train_loop import TrainLoop

# BatchNorm over half a batch is another function than over all of it, so its statistics are fixed or synchronised.
RUNS = (("frozen", 1), ("sync", 1), ("frozen", 2))
STEPS = 3


def train(bn_mode: str, parts: int = 1) -> dict[str, torch.Tensor]:
    """Takes a few steps on this process's share of a batch of four, in so many parts; returns the weights."""
    # SGD: Adam's first steps go by the sign of a gradient, which rounding decides where it is tiny.
    overrides = ["MODEL.CLIP.BN_MODE", bn_mode, "SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 0.001]
    model = tiny_model(*overrides).train()
    for layer in model.sem_seg_head.pixel_decoder.layers:
        # Samples start on pixel centres, where bilinear interpolation has no unique slope: move them away.
        torch.nn.init.normal_(layer.self_attn.sampling_offsets.weight, std=0.02)
    same_points(model)
    optimizer = build_optimizer(tiny_config(*overrides), model)
    samples = batch(4)
    samples[0]["sem_seg"][:, :40] = 255  # unequal numbers of masks
    samples = samples[comm.get_rank() :: comm.get_world_size()]
    loop = TrainLoop(
        model=wrap_model(model),
        optimizer=optimizer,
        precision=Precision(device="cpu"),
        clipper=GradientClipper(clip_type=None),
        seed=0,
        accumulate=parts,
    )
    loop.batches = iter([samples] * STEPS)
    with EventStorage() as loop.storage:
        for _ in range(STEPS):
            loop.run_step()
    return model.state_dict()


def job(folder: Path) -> None:
    """Runs in every process."""
    weights = {run: train(*run) for run in RUNS}
    if comm.is_main_process():
        torch.save(weights, folder / "two.pt")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("two")
    launch(job, processes_per_machine=2, device="cpu", args=(folder,))
    return torch.load(folder / "two.pt")


@pytest.mark.parametrize(("bn_mode", "parts"), RUNS)
def test_equal_one_process(of_two, bn_mode, parts):
    one, start = train(bn_mode), tiny_model("MODEL.CLIP.BN_MODE", bn_mode).state_dict()
    moved = 0.0
    for name, value in one.items():
        if value.is_floating_point():
            torch.testing.assert_close(
                of_two[bn_mode, parts][name], value, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: n + m
            )
            moved = max(moved, (value - start[name]).abs().max().item() if "sampling" not in name else 0.0)
    assert moved > 1e-4  # there was something to agree on
