"""Starts one process per device: NCCL on GPUs, gloo without, by our own flags or under torchrun.

detectron2 0.5's launcher asserts CUDA, and no release of it runs under torchrun; everything after the process groups
exist is detectron2's own (`detectron2.utils.comm`).
"""

import logging
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main: Callable[..., Any],
    *,
    processes_per_machine: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    device: str = "cpu",
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> Any:
    """Runs `main(*args)` in every process of the job, with the process groups set up.

    Under torchrun (RANK and WORLD_SIZE in the environment) this process is one of the job already and the numbers
    of processes and machines given here are ignored.

    Args:
        processes_per_machine: GPUs to use on each machine, or gloo processes if `device` is the CPU.
        dist_url: where the processes meet, e.g. "tcp://host:port"; "auto" takes a free port of this machine.
        device: MODEL.DEVICE; decides between NCCL ("cuda") and gloo (anything else).
        timeout: of collective operations.

    Returns:
        What `main` returned if it ran in this process (one process, or torchrun), else None.

    Raises:
        ValueError: fewer GPUs than processes, or several machines without a `dist_url`.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _run_under_torchrun(main, device, args, timeout)
    world_size = processes_per_machine * num_machines
    if world_size <= 1:
        return main(*args)
    _check_devices(processes_per_machine, device)
    if dist_url == "auto":
        if num_machines > 1:
            raise ValueError("several machines need --dist-url tcp://HOST:PORT with machine 0's address")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    shared = (main, processes_per_machine, world_size, machine_rank, dist_url, device, args, timeout)
    mp.spawn(_spawned_process, args=shared, nprocs=processes_per_machine)
    return None


def _run_under_torchrun(main: Callable[..., Any], device: str, args: tuple, timeout: timedelta) -> Any:
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    _check_devices(local_size, device)
    return _run_process(
        main,
        args,
        device=device,
        local_rank=local_rank,
        local_size=local_size,
        init={"init_method": "env://", "timeout": timeout},
    )


def _spawned_process(
    local_rank: int,
    main: Callable[..., Any],
    local_size: int,
    world_size: int,
    machine_rank: int,
    dist_url: str,
    device: str,
    args: tuple,
    timeout: timedelta,
) -> None:
    if not _on_cuda(device) and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))  # the processes share the cores
    rank = machine_rank * local_size + local_rank
    init = {"init_method": dist_url, "world_size": world_size, "rank": rank, "timeout": timeout}
    _run_process(main, args, device=device, local_rank=local_rank, local_size=local_size, init=init)


def _run_process(
    main: Callable[..., Any], args: tuple, *, device: str, local_rank: int, local_size: int, init: dict[str, Any]
) -> Any:
    if _on_cuda(device):
        torch.cuda.set_device(local_rank)  # before NCCL starts, which otherwise puts every process on GPU 0
    dist.init_process_group("nccl" if _on_cuda(device) else "gloo", **init)
    try:
        _create_local_group(local_size)
        comm.synchronize()
        return main(*args)
    finally:
        comm._LOCAL_PROCESS_GROUP = None
        dist.destroy_process_group()


def _create_local_group(local_size: int) -> None:
    """Tells detectron2 which processes share this machine (its `comm.get_local_rank` reads it)."""
    if hasattr(comm, "create_local_process_group"):  # newer than 0.5
        comm.create_local_process_group(local_size)
        return
    machine = dist.get_rank() // local_size
    for i in range(dist.get_world_size() // local_size):  # every process must take part in creating every group
        group = dist.new_group(list(range(i * local_size, (i + 1) * local_size)))
        if i == machine:
            comm._LOCAL_PROCESS_GROUP = group


def _check_devices(processes: int, device: str) -> None:
    if not _on_cuda(device):
        return
    available = torch.cuda.device_count()
    if processes > available:
        raise ValueError(
            f"{processes} processes per machine need {processes} GPUs, this machine has {available}: "
            "lower --num-gpus, or set MODEL.DEVICE cpu for processes on the CPU (gloo)"
        )


def _on_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
