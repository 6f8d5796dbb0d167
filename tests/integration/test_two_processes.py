"""Two gloo processes with half of the batch each train as one process with all of it."""

from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from tiny_models import batch, tiny_config, tiny_model

from mta_clip.engine.distributed import wrap_model
from mta_clip.engine.launch import launch
from mta_clip.engine.optimizer import build_optimizer

# BatchNorm over half a batch is another function than over all of it, so its statistics are fixed or synchronised.
BN_MODES = ("frozen", "sync")
STEPS = 3


def grid_points(num_sets: int, num_points: int, device: torch.device) -> torch.Tensor:
    """The same points in every process, where the criterion draws random ones."""
    generator = torch.Generator().manual_seed(num_points)
    return torch.rand(1, num_points, 2, generator=generator).expand(num_sets, -1, -1).to(device)


def train(bn_mode: str) -> dict[str, torch.Tensor]:
    """Takes a few steps on this process's share of a batch of four; returns the weights."""
    # SGD: Adam's first steps go by the sign of a gradient, which rounding decides where it is tiny.
    overrides = ["MODEL.CLIP.BN_MODE", bn_mode, "SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 0.001]
    model = tiny_model(*overrides).train()
    for layer in model.sem_seg_head.pixel_decoder.layers:
        # Samples start on pixel centres, where bilinear interpolation has no unique slope: move them away.
        torch.nn.init.normal_(layer.self_attn.sampling_offsets.weight, std=0.02)
    for part in (model.criterion.matcher, model.criterion.mask_loss):
        part.draw_points = grid_points
    optimizer = build_optimizer(tiny_config(*overrides), model)
    wrapped = wrap_model(model)
    samples = batch(4)
    samples[0]["sem_seg"][:, :40] = 255  # unequal numbers of masks
    samples = samples[comm.get_rank() :: comm.get_world_size()]
    for _ in range(STEPS):
        optimizer.zero_grad()
        sum(wrapped(samples).values()).backward()
        optimizer.step()
    return model.state_dict()


def job(folder: Path) -> None:
    """Runs in every process."""
    weights = {mode: train(mode) for mode in BN_MODES}
    if comm.is_main_process():
        torch.save(weights, folder / "two.pt")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("two")
    launch(job, processes_per_machine=2, device="cpu", args=(folder,))
    return torch.load(folder / "two.pt")


@pytest.mark.parametrize("bn_mode", BN_MODES)
def test_equal_one_process(of_two, bn_mode):
    one, start = train(bn_mode), tiny_model("MODEL.CLIP.BN_MODE", bn_mode).state_dict()
    moved = 0.0
    for name, value in one.items():
        if value.is_floating_point():
            torch.testing.assert_close(of_two[bn_mode][name], value, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: n + m)
            moved = max(moved, (value - start[name]).abs().max().item() if "sampling" not in name else 0.0)
    assert moved > 1e-4  # there was something to agree on
