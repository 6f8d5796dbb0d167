"""Inference on Apple's GPUs, as far as it shows without one: PyTorch has kernels for all operators, and no float64."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
import torchgen
from fake_cuda import fake_cuda
from tiny_models import TAG_CLIP, batch, tiny_model

OF_CUDA = "cudnn|_scaled_dot_product|_native_multi_head"  # norm and attention, for which PyTorch chooses others on MPS
FOR_ALL_DEVICES = ("MPS", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", "CompositeImplicit")


@cache
def declared() -> dict[str, str]:
    """PyTorch's own list: operators by name, with the devices that have a kernel."""
    text = (Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml").read_text()
    return dict(re.findall(r"^- func: ([\w.]+)\(.*\n((?:(?!- func).*\n)*)", text, flags=re.MULTILINE))


def runs_on_mps(operator: torch._ops.OpOverload) -> bool:
    name = str(operator).removeprefix("aten.").removesuffix(".default")
    about = declared()[name]
    if delegate := re.search(r"structured_delegate: (\S+)", about):
        about = declared()[delegate[1]]
    return "dispatch:" not in about or any(re.search(rf"\b{key}\b", about) for key in FOR_ALL_DEVICES)


@pytest.mark.parametrize(
    ("overrides", "text"), [((), False), ((), True), (TAG_CLIP, True)], ids=["mask2former", "mta-clip", "tagclip"]
)
def test_inference(overrides, text):
    model = tiny_model("MODEL.SEM_SEG_HEAD.SAMPLING", "grid_sample", *overrides, text=text)  # chosen on MPS
    with fake_cuda() as gpu:
        model.to("cuda").eval()(batch(1))  # a simulated MPS device is refused by PyTorch builds without MPS
    ran = {operator for operator, _ in gpu.ran if not re.search(OF_CUDA, str(operator))}
    assert len(ran) > 20 and ("grid_sampler_2d" in str(ran)) == (overrides != TAG_CLIP)
    assert sorted(str(operator) for operator in ran if not runs_on_mps(operator)) == []
    assert sorted(str(operator) for operator, dtype in gpu.ran if dtype == torch.float64) == []
