"""Stages of tools/gpu_campaign.py that time something: peers of benchmark.py, forms of sampling, single kernels.

Shapes: B images, S pixels of all levels, N queries, A heads, d channels per head, J samples of a query.
"""

import argparse
import functools
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import benchmark
import benchmark_worker
import torch
from torch import Tensor
from torch.autograd import DeviceType

if TYPE_CHECKING:
    from gpu_plan import Plan
    from gpu_stages import Cells, Record

OURS = ("mask2former-r50", "mta-clip-rn50")
HEADS, CHANNELS, POINTS = 8, 32, 4  # of deformable attention in all configs
STRIDES = (32, 16, 8)
LARGEST = 10  # kernels in a profile


class Peers:
    """Processes of benchmark.py's peers, started when first needed, and anew after one has ended."""

    def __init__(self, mode: str, plan: "Plan", args: argparse.Namespace) -> None:
        side, batch, *_ = (plan.inference if mode == "infer" else plan.training)[0]
        self.warm_up, self.rounds = plan.warm_up, plan.rounds
        self.settings = argparse.Namespace(
            mode=mode, device=plan.device, clock="wall", size=side, batch=batch, dtype="float32",
            threads=os.cpu_count(), classes=plan.classes, contexts=3, official=args.official,
        )  # fmt: skip
        self.workers: dict[str, benchmark.Worker] = {}
        self.unable: dict[str, BaseException] = {}

    def start(self, peers: list[str]) -> None:
        """Starts several at once, as each takes its time; what cannot start here is not tried for each row."""
        with ThreadPoolExecutor() as pool:
            started = {peer: pool.submit(benchmark.Worker, peer, self.settings) for peer in peers}
        self.unable = {peer: error for peer, worker in started.items() if (error := worker.exception())}
        self.workers = {peer: worker.result() for peer, worker in started.items() if peer not in self.unable}

    def time(self, peer: str, others: "list[Cells]", **settings: object) -> "Cells":
        """Median of several runs, against transformers' in the same settings.

        Args:
            others: rows so far.

        Raises:
            RuntimeError: the process ended.
        """
        if peer in self.unable:
            raise self.unable[peer]
        if peer not in self.workers:
            self.workers[peer] = benchmark.Worker(peer, self.settings)
        worker = self.workers[peer]
        worker.rounds.clear()
        try:
            for _ in range(self.warm_up + self.rounds):
                worker.run_round(**settings)
        except (RuntimeError, BrokenPipeError):
            del self.workers[peer]
            raise
        del worker.rounds[: self.warm_up]
        result = worker.summary()
        seconds = result["seconds"]["median"]
        same = settings | {"model": benchmark.TRANSFORMERS}
        reference = [row["ms"] for row in others if same.items() <= row.items() and "ms" in row]
        return {
            "ms": 1000 * seconds,
            "min..max": f"{1000 * result['seconds']['min']:.2f}..{1000 * result['seconds']['max']:.2f}",
            "images/s": benchmark.throughput(result),
            "/ transformers": 1000 * seconds / reference[0] if reference else 1.0 if peer == same["model"] else "",
            "peak MiB": result["peak_memory_mib"],
            "of it for the run": result["peak_memory_mib"] - result["start_memory_mib"],
            "stages, ms": "  ".join(f"{name} {1000 * value:.2f}" for name, value in result["stages"].items()),
        }

    def close(self) -> None:
        """Ends the processes."""
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()


def inference(record: "Record", plan: "Plan", args: argparse.Namespace) -> None:
    """All peers by image side, batch and precision; then ours compiled."""
    peers = [benchmark.TRANSFORMERS, *OURS, *([benchmark.OFFICIAL] if args.official else [])]
    jobs = [(side, batch, dtype) for side, batch in plan.inference for dtype in plan.dtypes]
    compare(record, Peers("infer", plan, args), peers, jobs)
    compare(record, Peers("infer", plan, args), [f"{peer}:compile" for peer in OURS], list(plan.compiled))


def training(record: "Record", plan: "Plan", args: argparse.Namespace) -> None:
    """Forward and backward of a step with autocast, against transformers'."""
    compare(record, Peers("train", plan, args), [benchmark.TRANSFORMERS, *OURS], list(plan.training))
    record.note("Goal: 0.60 of transformers' time in bfloat16 and float16; without optimizer and loss scaler")


def compare(record: "Record", peers: Peers, names: list[str], jobs: list[tuple[int, int, str]]) -> None:
    """One row for each job (side, batch, dtype) and peer."""
    keys = [
        {"size": side, "batch": batch, "dtype": dtype, "model": name} for side, batch, dtype in jobs for name in names
    ]
    missing = [key for key in keys if not record.has(key)]
    try:
        peers.start(list(dict.fromkeys(key["model"] for key in missing)))
        for key in missing:
            settings = {name: value for name, value in key.items() if name != "model"}
            record.measure(key, functools.partial(peers.time, key["model"], record.rows, **settings))
    finally:
        peers.close()


def sampling(record: "Record", plan: "Plan", args: argparse.Namespace) -> None:
    """Each form of deformable sampling in the package, forward and backward, and its distance to the plain form."""
    for side, batch in plan.sampling:
        inputs = sampling_inputs(side, batch, plan.device)
        for dtype in ("float32", "bfloat16", "float16"):
            for name, form in sampling_forms().items():
                key = {"size": side, "batch": batch, "dtype": dtype, "form": name}
                job = functools.partial(time_sampling, form, inputs, getattr(torch, dtype), plan)
                record.measure(key, job)


def sampling_forms() -> dict[str, Callable]:
    """The forms that the package has, by name."""
    from mta_clip.modeling import ops

    operator = ops.deformable_sampling
    named = {name: functools.partial(operator, form=name) for name in getattr(operator, "forms", ())}
    return named or {"auto": operator, "grid_sample": operator.plain}


def sampling_inputs(side: int, batch: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, list]:
    """value (B, S, A, d), x, y and weights (B, N, J) and sizes of a pixel decoder's layer, in which N = S."""
    sizes = [(side // stride, side // stride) for stride in STRIDES]
    generator = torch.Generator().manual_seed(0)
    pixels, samples = sum(h * w for h, w in sizes), HEADS * len(sizes) * POINTS
    value = torch.randn(batch, pixels, HEADS, CHANNELS, generator=generator)
    x, y, weights = torch.rand(3, batch, pixels, samples, generator=generator)
    sides = torch.tensor([h for h, _ in sizes]).repeat_interleave(POINTS).repeat(HEADS)
    x, y = (1.1 * (sides * t) - 0.05 * sides - 0.5 for t in (x, y))  # some outside
    return (*(t.to(device) for t in (value, x, y, weights / POINTS)), sizes)


def time_sampling(form: Callable, inputs: tuple, dtype: torch.dtype, plan: "Plan") -> "Cells":
    """Milliseconds forward, and forward with backward; the memory of both; the largest difference to float32."""
    from mta_clip.modeling import ops

    *tensors, sizes = inputs
    value, x, y, weights = (t.detach().clone() for t in tensors)
    leaves = [value.to(dtype), x, y, weights]
    try:
        with torch.no_grad():
            output = form(*leaves, sizes)
    except (ImportError, ValueError) as reason:  # a form that this machine cannot run
        return {"not run": str(reason)}
    with torch.no_grad():
        difference = (output.float() - ops.deformable_sampling.plain(*tensors, sizes)).abs().max().item()
        forward = median_seconds(lambda: form(*leaves, sizes), plan)
    for leaf in leaves:
        leaf.requires_grad_()
    gradient = torch.ones_like(output)

    def step() -> None:
        torch.autograd.grad(form(*leaves, sizes), leaves, gradient)

    before = memory_mib(plan.device, reset=True)
    both = median_seconds(step, plan)
    peak = memory_mib(plan.device) - before
    return {
        "forward, ms": 1000 * forward, "with backward, ms": 1000 * both, "peak MiB": peak, "difference": difference,
    }  # fmt: skip


def memory_mib(device: str, *, reset: bool = False) -> float:
    """Peak so far, as in benchmark_worker.py; on a GPU, `reset` starts anew from what is held now."""
    if reset and device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return benchmark_worker.peak_memory_mib(device)


def median_seconds(job: Callable[[], object], plan: "Plan") -> float:
    clock = argparse.Namespace(device=plan.device, clock="wall")
    times = []
    for _ in range(plan.warm_up + plan.rounds):
        start = benchmark_worker.mark(clock)
        job()
        end = benchmark_worker.mark(clock)
        if plan.device == "cuda":
            torch.cuda.synchronize()
        times.append(benchmark_worker.between(start, end))
    return statistics.median(times[plan.warm_up :])


def profile(record: "Record", plan: "Plan", args: argparse.Namespace) -> None:
    """The largest kernels of MTA-CLIP's inference and training step, and how long the GPU waits between them."""
    for mode, (side, batch, *_) in (("infer", plan.inference[-1]), ("train", plan.training[0])):
        key = {"run": f"{mode}, {side}, batch {batch}"}
        record.measure(key, functools.partial(kernels, mode, side, batch, plan))


def kernels(mode: str, side: int, batch: int, plan: "Plan") -> "list[Cells]":
    """The share of time without any kernel, then the ten kernels (on a CPU, operators) that take longest."""
    settings = argparse.Namespace(
        mode=mode, device=plan.device, dtype="bfloat16", size=side, batch=batch, classes=plan.classes, contexts=3,
        compile=False, clock="wall", official=None,
    )  # fmt: skip
    stages = benchmark_worker.PEERS[mode]["mta-clip-rn50"](settings)
    images = torch.randn(batch, 3, side, side, device=plan.device)
    on_cuda = plan.device == "cuda"
    for _ in range(plan.warm_up):
        benchmark_worker.run(stages, images, settings)
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU, *([activity.CUDA] if on_cuda else [])]) as profiler:
        for _ in range(plan.rounds):
            benchmark_worker.run(stages, images, settings)
    kind = DeviceType.CUDA if on_cuda else DeviceType.CPU
    events = [e for e in profiler.events() if e.device_type == kind and not getattr(e, "is_user_annotation", False)]
    span, busy = busy_time([(e.time_range.start, e.time_range.end) for e in events])
    times: dict[str, list[float]] = {}
    for event in events:
        own = event.time_range.elapsed_us() if on_cuda else event.self_cpu_time_total
        times.setdefault(event.name, []).append(own)
    largest = sorted(times.items(), key=lambda item: -sum(item[1]))[:LARGEST]
    total = sum(map(sum, times.values()))
    idle = {"ms per run": (span - busy) / plan.rounds / 1000, "share": 1 - busy / span}
    rows: list[Cells] = [{"kernel": "(idle)", **idle}]
    for name, parts in largest:
        per_run = {"ms per run": sum(parts) / plan.rounds / 1000, "share": sum(parts) / total}
        rows.append({"kernel": name[:90], **per_run, "calls per run": len(parts) / plan.rounds})
    return rows


def busy_time(intervals: list[tuple[float, float]]) -> tuple[float, float]:
    """The time from the first start to the last end, and how much of it at least one interval covers."""
    covered, reached = 0.0, min(start for start, _ in intervals)
    first = reached
    for start, end in sorted(intervals):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return reached - first, covered
