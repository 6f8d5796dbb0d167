"""SOLVER.ACCUMULATE: the mean over the parts of a batch is its loss, however masks are spread over them."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tiny_models import batch, same_points, tiny_config, tiny_tag_clip_config


def mask_config(*overrides, **options) -> CfgNode:
    return tiny_config("MODEL.CLIP.BN_MODE", "frozen", *overrides, **options)


def tag_config(**datasets) -> CfgNode:
    cfg = tiny_tag_clip_config()
    cfg.DATASETS.update(datasets)
    return cfg


CONFIGS = {
    "MTACLIP": mask_config,
    "Mask2Former": lambda: mask_config(text=False),
    "class_weight_sum": lambda: mask_config("MODEL.MASK_FORMER.NORMALIZER", "class_weight_sum"),
    "few queries": lambda: mask_config("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 2),
    "TagCLIP": tag_config,
    "TagCLIP, all classes": lambda: tag_config(UNSEEN_CLASSES=[]),
}


def step(model: torch.nn.Module, *parts) -> tuple[dict, torch.Tensor]:
    """Losses and all gradients of the mean over parts."""
    model.train().zero_grad()
    total: dict[str, torch.Tensor] = {}
    with EventStorage():
        for part in parts:
            losses = {name: loss / len(parts) for name, loss in model(*part).items()}
            sum(losses.values()).backward()
            total = {name: loss.detach() + total.get(name, 0) for name, loss in losses.items()}
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def model_and_batch(name: str) -> tuple[torch.nn.Module, list[dict]]:
    torch.manual_seed(0)
    model = build_model(CONFIGS[name]())
    if hasattr(model.criterion, "matcher"):
        same_points(model)
    samples = batch(4)
    samples[0]["sem_seg"][:] = 255  # no mask
    samples[1]["sem_seg"][:, :40] = 255  # unequal numbers of masks
    return model, samples


@pytest.mark.parametrize("name", CONFIGS)
def test_parts_are_equal_to_the_whole(name):
    model, samples = model_and_batch(name)
    whole = step(model, [samples])
    for size in (1, 2):
        losses, gradient = step(model, *[(samples[i : i + size], samples) for i in range(0, 4, size)])
        torch.testing.assert_close(losses, whole[0], atol=1e-5, rtol=1e-4)
        assert (gradient - whole[1]).norm() < 1e-4 * whole[1].norm()


@pytest.mark.parametrize("name", ["MTACLIP", "TagCLIP"])
def test_by_themselves_they_are_not(name):
    model, samples = model_and_batch(name)
    whole, alone = step(model, [samples]), step(model, [samples[:2]], [samples[2:]])
    assert (alone[1] - whole[1]).norm() > 1e-2 * whole[1].norm()


def test_pseudo_labels_are_normalised_by_part():
    """They come from predictions, so that nobody knows them before."""
    torch.manual_seed(0)
    model, samples = build_model(tag_config(PROTOCOL="transductive")), batch(4)
    parts = step(model, (samples[:2], samples), (samples[2:], samples))
    alone = step(model, [samples[:2]], [samples[2:]])
    torch.testing.assert_close(parts, alone, rtol=0, atol=0)
