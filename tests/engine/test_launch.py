"""One job of two gloo processes does everything that needs two; the tests look at what it left and how it ended.

test_train_net.py starts two processes by every command that can.
"""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from toy_training import ToyTrainer, train_toy

from mta_clip.engine.distributed import broadcast_buffers, gather_rows
from mta_clip.engine.launch import _agree_on_restarts, launch, restarts

HANGS = 600  # seconds


def kill_last_process(folder: Path) -> None:
    """Kills it as the system does when memory runs out, and notes the time; the others hang."""
    if comm.get_rank() == comm.get_world_size() - 1:
        (folder / "killed_at").write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(HANGS)


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
    report["kept"] = (folder / "broken" / f"non_finite{'_1' if rank else ''}.pth").is_file()
    torch.save(report, folder / f"report{rank}.pt")
    comm.synchronize()
    kill_last_process(folder)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> dict:
    """What the job's two processes reported before one was killed, the error of `launch`, and how long that took."""
    folder = tmp_path_factory.mktemp("two_processes")
    with pytest.raises(RuntimeError) as error:
        launch(job, processes_per_machine=2, device="cpu", args=(folder,))
    assert (folder / "killed_at").exists(), str(error.value)
    return {
        "seconds": time.time() - float((folder / "killed_at").read_text()),
        "error": str(error.value),
        "reports": [torch.load(folder / f"report{rank}.pt") for rank in range(2)],
    }


@pytest.fixture
def reports(killed) -> list[dict]:
    return killed["reports"]


def test_killed_process_ends_the_others_within_seconds(killed):
    assert "process 1 stopped with exit code -9: Signal 9 (SIGKILL)" in killed["error"]
    assert killed["seconds"] < 10


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
        assert "process 1 had its batch, kept in" in report["error"]
    assert [report["kept"] for report in reports] == [False, True]


def test_one_process_runs_here():
    assert launch(os.getpid) == os.getpid()


def test_more_processes_than_gpus_is_an_error():
    processes = torch.cuda.device_count() + 2
    with pytest.raises(ValueError, match=r"GPU.*MODEL.DEVICE cpu"):
        launch(job, processes_per_machine=processes, device="cuda")


@pytest.mark.parametrize("dist_url", ["auto", "tcp://somewhere", "file:///shared/file"])
def test_several_machines_need_an_address(dist_url):
    with pytest.raises(ValueError, match=rf"--dist-url is '{dist_url}'.*tcp://HOST:PORT"):
        launch(job, num_machines=2, dist_url=dist_url)


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


def test_a_machine_that_takes_the_place_of_a_lost_one_knows_of_the_restart(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setattr(comm, "all_gather", lambda count: [2, count])
    _agree_on_restarts()
    assert restarts()[0] == 2


class KilledToyTrainer(ToyTrainer):
    """Before the sixth step, past the checkpoint after the fourth, the last process is killed; the other hangs."""

    def before_step(self) -> None:
        super().before_step()
        if self.iter == 5 and restarts() == (0, 1):
            kill_last_process(Path(self.cfg.OUTPUT_DIR))


def killed_then_failing_job(folder: Path) -> None:
    weights = train_toy(folder, trainer=KilledToyTrainer, arch="NoisyToySegmentor")
    if comm.is_main_process():
        torch.save(weights, folder / "restarted.pt")
        torch.save(train_toy(folder / "whole", arch="NoisyToySegmentor"), folder / "whole.pt")
    else:
        train_toy(folder / "whole", arch="NoisyToySegmentor")
        raise ValueError("what went wrong")
    time.sleep(HANGS)


@pytest.mark.slow
def test_restarted_run_equals_an_uninterrupted_one_and_a_second_failure_is_shown(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)process 1 stopped.*Traceback.*ValueError: what went wrong"):
        launch(killed_then_failing_job, processes_per_machine=2, max_restarts=1, args=(tmp_path,))
    assert (tmp_path / "killed_at").exists()
    restarted, whole = (torch.load(tmp_path / f"{name}.pt") for name in ("restarted", "whole"))
    for name, value in whole.items():
        assert torch.equal(restarted[name], value), name
