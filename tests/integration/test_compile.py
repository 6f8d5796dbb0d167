"""MODEL.COMPILE: the same numbers from compiled networks."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tiny_models import batch, tiny_config, tiny_tag_clip_config


@pytest.fixture(autouse=True)
def forget_compiled_code():
    """Else the sizes of one test make the next compile for any size."""
    torch.compiler.reset()


CONFIGS = {"MTACLIP": tiny_config, "Mask2Former": lambda: tiny_config(text=False), "TagCLIP": tiny_tag_clip_config}


def model_of(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(CONFIGS[name]())


def step(model: torch.nn.Module) -> tuple[dict, torch.Tensor]:
    """Losses of a training step, and all gradients as one vector."""
    torch.manual_seed(1)  # of the sampled points
    with EventStorage():
        losses = model.train()(batch())
    sum(losses.values()).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return {key: loss.detach() for key, loss in losses.items()}, torch.cat(gradients)


def check_equal(name: str, backend: str, tolerance: float, sizes: tuple = ((64, 72), (96, 64))) -> None:
    plain, compiled = model_of(name), model_of(name)
    compiled.compile(backend=backend)
    expected, actual = step(plain), step(compiled)
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-5)
    assert (actual[1] - expected[1]).norm() < tolerance * expected[1].norm()
    for size in sizes:
        images = batch(size=size)
        for result, wanted in zip(compiled.eval()(images), plain.eval()(images), strict=True):
            torch.testing.assert_close(result["sem_seg"], wanted["sem_seg"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "sizes"), [("MTACLIP", ((64, 72),)), ("TagCLIP", ((64, 72), (96, 64)))])
def test_traced_networks_give_the_same(name, sizes):
    """Without code generation, which needs a compiler. Every size is traced anew, which takes MTACLIP long."""
    check_equal(name, "aot_eager", tolerance=1e-3, sizes=sizes)


@pytest.mark.slow
def test_compiled_networks_train_on_a_second_size():
    model = model_of("MTACLIP").train()
    model.compile()
    for size in ((64, 72), (96, 64)):
        losses = model(batch(size=size))
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.slow
def test_compiled_networks_give_the_same():
    check_equal("MTACLIP", "inductor", tolerance=1e-2)


@pytest.mark.parametrize(
    ("name", "precision"), [("MTACLIP", "bfloat16"), ("Mask2Former", "float32"), ("TagCLIP", "bfloat16")]
)
def test_each_network_is_one_graph_at_inference(name, precision):
    cfg = CONFIGS[name]()
    cfg.TEST.PRECISION, cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_FULL_PRECISION = precision, False
    model = build_model(cfg).eval()
    expected = model(batch())
    model.compile(backend="eager", fullgraph=True)
    for result, wanted in zip(model(batch()), expected, strict=True):
        torch.testing.assert_close(result["sem_seg"], wanted["sem_seg"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_key_compiles_the_networks_and_leaves_names_alone(name):
    cfg = CONFIGS[name]()
    assert not any(network._compiled_call_impl for network in build_model(cfg).networks())
    cfg.MODEL.COMPILE = True
    model = build_model(cfg)
    assert all(network._compiled_call_impl for network in model.networks())
    assert model.state_dict().keys() == model_of(name).state_dict().keys()
