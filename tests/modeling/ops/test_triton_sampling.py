"""The Triton kernels against the plain form; without a GPU, Triton's interpreter runs them."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")
from mta_clip.modeling.ops import triton_sampling
from mta_clip.modeling.ops.sampling import deformable_sampling as plain_sampling
from mta_clip.modeling.ops.triton_sampling import deformable_sampling

CASES = {  # images, heads, channels, queries, points, sizes
    "one pixel": (1, 1, 1, 1, 1, [(1, 1)]),
    "odd channels": (2, 3, 5, 5, 2, [(2, 3), (5, 4)]),
    "a level without pixels": (1, 2, 4, 3, 1, [(2, 3), (0, 4), (1, 1)]),
    "three levels": (3, 2, 8, 7, 4, [(1, 6), (7, 1), (3, 3)]),
    "no queries": (2, 2, 4, 0, 1, [(2, 2)]),
}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """With a GPU the kernels are compiled, so that they do not run on the CPU."""
    if (request.param == "cpu") != triton_sampling.INTERPRETED:
        pytest.skip("TRITON_INTERPRET decides for the whole process whether kernels are interpreted")
    return request.param


def random_inputs(images, heads, channels, queries, points, sizes, device="cpu"):
    value = torch.randn(images, sum(h * w for h, w in sizes), heads, channels)
    samples = images, queries, heads * len(sizes) * points
    x, y = 10 * torch.rand(2, *samples) - 3  # many outside
    return [t.to(device).requires_grad_() for t in (value, x, y, torch.rand(samples))], sizes


def with_gradients(form, inputs, sizes, gradient):
    output = form(*inputs, sizes)
    return [output, *torch.autograd.grad(output, inputs, gradient)]


def without_empty_levels(inputs, sizes):
    """grid_sample refuses maps without pixels: leaves out their samples, which are zero."""
    kept = [level for level, (h, w) in enumerate(sizes) if h * w]
    value, *samples = inputs
    heads = value.shape[2]
    samples = [t.unflatten(-1, (heads, len(sizes), -1))[..., kept, :].flatten(2) for t in samples]
    return value, *samples, [sizes[level] for level in kept]


@pytest.mark.parametrize(("case", "tile"), [*((case, 1024) for case in CASES), ("odd channels", 64)])
def test_equals_the_plain_form_forward_and_backward(case, tile, device, monkeypatch):
    monkeypatch.setattr(triton_sampling, "_TILE", tile)  # small: several programs, the last one not full
    inputs, sizes = random_inputs(*CASES[case], device=device)
    gradient = torch.randn(*inputs[1].shape[:2], inputs[0].shape[2:].numel(), device=device)
    expected = with_gradients(
        lambda *args: plain_sampling(*without_empty_levels(args[:4], args[4])), inputs, sizes, gradient
    )
    actual = with_gradients(deformable_sampling, inputs, sizes, gradient)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype, device):
    (value, *samples), sizes = random_inputs(*CASES["odd channels"], device=device)
    half = value.detach().to(dtype).requires_grad_()
    gradient = torch.randn(2, 5, 15, device=device).to(dtype)
    expected = with_gradients(plain_sampling, [half, *samples], sizes, gradient)
    for one, other in zip(
        with_gradients(deformable_sampling, [half, *samples], sizes, gradient), expected, strict=True
    ):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=1e-5, rtol=torch.finfo(one.dtype).eps * 8)


def test_gradients_equal_finite_differences(device):
    """Between pixel centres the sum is linear in each input, so that steps may be large: rounding does not matter."""
    sizes, step = [(2, 3), (3, 2)], 0.125
    value = torch.randn(1, 12, 1, 2)
    cells, inside = torch.randint(-1, 3, (2, 1, 2, 4)), 0.25 + 0.5 * torch.rand(2, 1, 2, 4)
    x, y = cells + inside
    inputs = [t.to(device).requires_grad_() for t in (value, x, y, torch.rand(1, 2, 4))]
    gradients = torch.autograd.grad(deformable_sampling(*inputs, sizes).sum(), inputs)
    for index, gradient in enumerate(gradients):
        steps = step * torch.eye(gradient.numel(), device=device).unflatten(
            1, gradient.shape[1:]
        )  # one image per entry moves it
        outputs = []
        for sign in (1, -1):
            moved = [t.detach().expand(len(steps), *t.shape[1:]) for t in inputs]
            moved[index] = moved[index] + sign * steps
            outputs.append(deformable_sampling(*moved, sizes).sum((1, 2)))
        difference = (outputs[0] - outputs[1]) / (2 * step)
        torch.testing.assert_close(difference, gradient.flatten(), atol=1e-4, rtol=1e-4)


def test_far_outside_is_zero_and_has_no_slope(device):
    value = torch.full((1, 4, 1, 1), 8.0, device=device)
    x = torch.tensor([-1e30, 1e30, -2.0, 2.0, 3e9], device=device).view(1, 5, 1).requires_grad_()
    output = deformable_sampling(value, x, torch.zeros_like(x), torch.ones_like(x), [(2, 2)])
    output.sum().backward()
    assert output.eq(0).all() and x.grad.eq(0).all()


def test_layouts_do_not_matter(device):
    inputs, sizes = random_inputs(*CASES["odd channels"], device=device)
    strided = [t.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for t in inputs]
    gradient = torch.randn(5, 2, 15, device=device).transpose(0, 1)
    expected = with_gradients(deformable_sampling, inputs, sizes, gradient.contiguous())
    for one, other in zip(with_gradients(deformable_sampling, strided, sizes, gradient), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_what_compilers_and_fake_tensors_are_told_is_true(device):
    """Schema, shapes and dtypes without running, registration of the gradient."""
    inputs, sizes = random_inputs(1, 2, 4, 2, 1, [(2, 2), (1, 1)], device=device)
    arguments = *inputs, [side for size in sizes for side in size]
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(triton_sampling._forward, arguments, test_utils=checks)


def test_it_compiles_into_one_graph_with_its_backward_pass(device):
    inputs, sizes = random_inputs(1, 2, 4, 2, 1, [(2, 2), (1, 1)], device=device)
    gradient = torch.randn(1, 2, 8, device=device)
    expected = with_gradients(deformable_sampling, inputs, sizes, gradient)
    compiled = torch.compile(deformable_sampling, backend="aot_eager", fullgraph=True)
    for one, other in zip(with_gradients(compiled, inputs, sizes, gradient), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_deterministic_run_gets_an_error(device):
    inputs, sizes = random_inputs(*CASES["one pixel"], device=device)
    output = deformable_sampling(*inputs, sizes).sum()
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="no deterministic backward pass"):
            output.backward(retain_graph=True)
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="no deterministic backward pass"):
            output.backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_cpus_need_the_interpreter(monkeypatch):
    monkeypatch.setattr(triton_sampling, "INTERPRETED", False)
    inputs, sizes = random_inputs(*CASES["one pixel"])
    with pytest.raises(ValueError, match="Triton needs a CUDA device, the tensors are on cpu"):
        deformable_sampling(*inputs, sizes)


@pytest.mark.slow
def test_the_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    """Down to machine code; an A100 has compute capability 8.0, an H100 9.0."""
    script = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from mta_clip.modeling.ops import triton_sampling

constants = dict(HEADS=8, CHANNELS=32, LEVELS=3, POINTS=4, BLOCK=32, WIDTH=32)
for kernel in (triton_sampling._forward_kernel, triton_sampling._backward_kernel):
    for dtype in ("fp32", "fp16", "bf16"):
        types = dict.fromkeys(kernel.arg_names, "*fp32") | dict.fromkeys(constants, "constexpr") | {"levels": "*i32"}
        types |= dict.fromkeys(("bags", "pixels", "bags_per_image"), "i32")
        types |= {name: "*" + dtype for name in ("value", "output", "grad") if name in types}
        for capability in (80, 90):
            compiled = compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", capability, 32))
            print(len(compiled.asm["cubin"]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert all(int(size) > 0 for size in run.stdout.split()) and len(run.stdout.split()) == 12
