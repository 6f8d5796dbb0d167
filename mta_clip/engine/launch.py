"""Starts one process per device with torch's elastic launcher, which torchrun uses too.

`launch` and torchrun start the same kind of worker: both describe the job in its environment variables.
Source: https://docs.pytorch.org/docs/stable/elastic/run.html
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from .devices import check_devices
from .interrupts import SIGNALS, Interrupted
from .stopped import StoppedProcesses

TIMEOUT = timedelta(minutes=30)  # of collective operations
STOPPED = 20.0  # seconds after which a process that somebody has stopped counts as lost
_INTERRUPTED = [128 + signum for signum in SIGNALS]  # exit codes


class ProcessError(RuntimeError):
    """One of the job's processes has failed; the message has its traceback, or the signal that killed it.

    Attributes:
        rank: of the process.
        error: name of the class of the exception; "" if the process was killed.
        reason: message of the exception.
    """

    def __init__(self, rank: int, exitcode: int, message: str | dict, note: str = "") -> None:
        raised = message if isinstance(message, dict) else None
        cause = raised["extraInfo"]["py_callstack"] if raised else message
        super().__init__(f"process {rank} stopped with exit code {exitcode}: {cause}{note}")
        self.rank = rank
        name, _, reason = raised["message"].partition(": ") if raised else ("", "", "")
        self.error: str = name
        self.reason: str = reason


def launch(
    main: Callable[..., Any],
    *,
    processes_per_machine: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    device: str = "cpu",
    max_restarts: int = 0,
    args: tuple = (),
) -> Any:
    """Runs `main(*args)` in every process of the job: NCCL on GPUs, gloo without.

    When a process fails, is killed, or is stopped (SIGSTOP) for STOPPED seconds, the others are stopped. Under torchrun
    this process already belongs to a job, and torchrun decides the numbers of processes, machines and restarts.

    Args:
        main: picklable if it runs in several processes.
        processes_per_machine: GPUs to use on each machine, or gloo processes if `device` is the CPU.
        num_machines: machines of the job.
        machine_rank: of this machine, from 0.
        dist_url: "tcp://HOST:PORT" of machine 0, where the machines meet; "auto" for one machine.
        device: MODEL.DEVICE.
        max_restarts: how often a failed job is started again; see `restarts`.
        args: of `main`.

    Returns:
        What `main` returned in this process, or in the process of lowest rank that was started here.

    Raises:
        ValueError: fewer GPUs than processes, or a `dist_url` that is neither tcp://HOST:PORT nor "auto".
        ProcessError: a process failed.
        Interrupted: SIGINT or SIGTERM stopped the processes.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _run_worker(main, device, args)
    check_devices(device, processes_per_machine)
    if processes_per_machine * num_machines == 1 and max_restarts == 0:
        return main(*args)
    if max_restarts == 0:  # its log lines would repeat the error below; with restarts they give the reason for each
        logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=num_machines,
            max_nodes=num_machines,
            nproc_per_node=processes_per_machine,
            run_id="mta_clip",
            max_restarts=max_restarts,
            monitor_interval=0.1,  # seconds between two checks that all processes are alive
            logs_specs=DefaultLogsSpecs(folder),  # for the workers' tracebacks
            **_rendezvous(num_machines, machine_rank, dist_url),
        )
        results = _run_processes(config, main, device, args)
    return results[min(results)]


def _run_processes(config: LaunchConfig, main: Callable[..., Any], device: str, args: tuple) -> dict[int, Any]:
    """What `main` returned in each process, by rank; for errors see `launch`."""
    try:
        with StoppedProcesses(seconds=STOPPED) as watch:
            return elastic_launch(config, _run_worker)(main, device, args)
    except SignalException as error:  # it has passed the signal on, and waited for the processes
        raise Interrupted(error.sigval) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode in _INTERRUPTED:
            raise Interrupted(failure.exitcode - 128) from None
        raise ProcessError(rank, failure.exitcode, failure.message, _note(failure, watch)) from None


def _note(failure: ProcessFailure, watch: StoppedProcesses) -> str:
    """What else is known of a process that was killed."""
    if failure.pid in watch.killed:
        return f". It had been stopped (SIGSTOP) for {STOPPED:.0f} s, and the others waited for it"
    if failure.exitcode == -signal.SIGKILL:
        return ". If nobody killed it, memory ran out: the system's log says so"
    return ""


def restarts() -> tuple[int, int]:
    """How often this job has been restarted after a failure, and how often it may be."""
    count, most = (int(os.environ.get(f"TORCHELASTIC_{name}", 0)) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return count, most


def _agree_on_restarts() -> None:
    """Makes `restarts` the same everywhere: the launcher of a machine that took the place of a lost one has none."""
    if most := max(comm.all_gather(restarts()[0])):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(most)


def _rendezvous(num_machines: int, machine_rank: int, dist_url: str) -> dict[str, Any]:
    if dist_url == "auto" and num_machines == 1:
        return {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}  # any free port
    url = urlsplit(dist_url)
    if url.scheme != "tcp" or not url.port:
        raise ValueError(f"--dist-url is {dist_url!r}: several machines need tcp://HOST:PORT with machine 0's address")
    return {"rdzv_backend": "static", "rdzv_endpoint": url.netloc, "rdzv_configs": {"rank": machine_rank}}


def _run_worker(main: Callable[..., Any], device: str, args: tuple) -> Any:
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    check_devices(device, local_size)
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.set_device(local_rank)  # before NCCL starts, which otherwise puts every process on GPU 0
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))  # the processes share the cores
    store, rank, world_size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # Restarted workers use the same store, where torch would read addresses of dead ones (pytorch issue 135712).
        store = dist.PrefixStore(f"restart_{restarts()[0]}", store)
    backend = "nccl" if on_cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    comm._LOCAL_PROCESS_GROUP, _ = dist.new_subgroups(local_size)  # the processes of this machine, for detectron2
    comm.synchronize()
    _agree_on_restarts()
    try:
        result = main(*args)
    except Interrupted as error:
        sys.exit(128 + error.signum)
    comm._LOCAL_PROCESS_GROUP = None
    dist.destroy_process_group()  # not after an error: the other processes would report only a lost connection
    return result
