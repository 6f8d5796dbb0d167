"""One job of two gloo processes does everything that needs two; the tests look at what it left."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from toy_training import train_toy

from mta_clip.engine.distributed import broadcast_buffers, gather_rows
from mta_clip.engine.launch import launch

SUPPORT = Path(__file__).parents[1] / "support"


def job(folder: Path) -> None:
    """Runs in every process."""
    rank = comm.get_rank()
    report = {
        "world": comm.get_world_size(),
        "local": (comm.get_local_rank(), comm.get_local_size()),
        "rows": gather_rows(torch.tensor([float(rank), 5.0])),
    }
    norm = torch.nn.BatchNorm1d(1)
    norm.running_mean += rank + 1
    broadcast_buffers(norm)
    report["buffer"] = norm.running_mean.item()
    report["weights"] = train_toy(folder / "two")
    train_toy(folder / "part", MAX_ITER=8, CHECKPOINT_PERIOD=3)
    (folder / "part" / "last_checkpoint").write_text("model_0000002.pth")
    comm.synchronize()
    report["resumed"] = train_toy(folder / "part", resume=True)
    try:
        train_toy(folder / "broken", arch="BreakingToySegmentor")
    except FloatingPointError as error:
        report["error"] = str(error)
    torch.save(report, folder / f"report{rank}.pt")


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("two_processes")
    launch(job, processes_per_machine=2, device="cpu", args=(folder,))
    return [torch.load(folder / f"report{rank}.pt") for rank in range(2)]


def test_processes_know_each_other(reports):
    assert [report["world"] for report in reports] == [2, 2]
    assert [report["local"] for report in reports] == [(0, 2), (1, 2)]
    for report in reports:
        assert report["rows"].tolist() == [[0.0, 5.0], [1.0, 5.0]]


def test_buffers_of_the_first_process_win(reports):
    assert [report["buffer"] for report in reports] == [1.0, 1.0]


def test_two_processes_train_as_one_with_the_same_global_batch(reports, tmp_path):
    alone = train_toy(tmp_path)
    for report in reports:
        for name, value in alone.items():
            torch.testing.assert_close(report["weights"][name], value, rtol=1e-5, atol=1e-6)


def test_two_processes_resume_exactly(reports):
    for report in reports:
        assert all(torch.equal(report["resumed"][name], value) for name, value in report["weights"].items())


def test_non_finite_loss_of_one_process_stops_all(reports):
    for report in reports:
        assert "infinite or NaN at iteration 3 in loss_ce" in report["error"]


def test_one_process_runs_here():
    assert launch(os.getpid) == os.getpid()


def test_more_processes_than_gpus_is_an_error():
    processes = torch.cuda.device_count() + 2
    with pytest.raises(ValueError, match=rf"{processes} processes per machine need {processes} GPUs.*MODEL.DEVICE cpu"):
        launch(job, processes_per_machine=processes, device="cuda")


def test_several_machines_need_an_address():
    with pytest.raises(ValueError, match="--dist-url"):
        launch(job, num_machines=2, device="cpu")


def whoami() -> tuple[int, int, int, str]:
    return comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), torch.distributed.get_backend()


def test_environment_of_torchrun_is_joined(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
    for name, value in {**environment, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    assert launch(whoami, processes_per_machine=5) == (0, 1, 0, "gloo")
    assert not torch.distributed.is_initialized()
    assert comm.get_world_size() == 1


@pytest.mark.slow
def test_torchrun_with_two_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(SUPPORT)!r})\n"
        "from toy_training import train_toy\n"
        "from mta_clip.engine.launch import launch\n"
        f"launch(train_toy, device='cpu', args=({str(tmp_path / 'two')!r},))\n"
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run(run, check=True, timeout=300)
    alone = train_toy(tmp_path / "one")
    together = torch.load(tmp_path / "two" / "model_final.pth", weights_only=True)["model"]
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-6)
