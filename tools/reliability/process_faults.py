#!/usr/bin/env python
"""Trains in two and four processes of which the last one goes wrong, and looks at how the job ends: `make processes`.

    python tools/reliability/process_faults.py --output output/reliability/processes
    python tools/reliability/process_faults.py --processes 2 --faults stopped memory

Each job trains a tiny model on the CPU (gloo). In its third step, the last process is killed, is stopped (SIGSTOP),
runs out of memory, gets an image that cannot be read, or a loss that is NaN. Without restarts, the job has to end
within a minute, with one message that names the process and the cause. With one restart, it has to end with the
weights of a job in which nothing went wrong, to the last bit. Then the model is evaluated: by so many processes that
one of them has no image, with the metrics of one process.

Processes are forked, so that the minute is not one of imports, and use one thread each. OUTPUT/results.json has a row
for each job; the same command continues.
"""

import argparse
import functools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tabulate
import torch

from kill_jobs import Child, Job, tiny_options, write_photos  # isort: skip  (finds mta_clip)
from kill_evidence import digest

from mta_clip.cli import main as command_line
from mta_clip.data import read_image
from mta_clip.engine import launch, trainer

LIMIT = 60.0  # seconds from the fault to the end of the job
PATIENCE = 600.0  # for a whole job
STEP = 2  # iteration in which it happens, after the first checkpoint


def read_broken_image() -> None:
    Path("broken.png").write_bytes(b"\x89PNG\r\n")
    read_image("broken.png")


def lose_the_loss(run: trainer.Trainer) -> None:
    run.model.register_forward_hook(lambda model, inputs, losses: {k: v * float("nan") for k, v in losses.items()})


# name: (what happens to a process, words of the message)
FAULTS: dict[str, tuple[Callable[[trainer.Trainer], None], str]] = {
    "killed": (lambda run: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
    "stopped": (lambda run: os.kill(os.getpid(), signal.SIGSTOP), "had been stopped (SIGSTOP)"),
    "memory": (lambda run: torch.empty(1 << 46), "memory ran out"),
    "bad image": (lambda run: read_broken_image(), "broken.png"),
    "NaN": (lose_the_loss, f"infinite or NaN at iteration {STEP} in loss_"),
}


class FaultyTrainer(trainer.Trainer):
    """Something happens to the last process, once."""

    fault: Callable[[trainer.Trainer], None] | None = None

    def run_step(self) -> None:
        last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
        if self.fault and last and self.iter == STEP and not launch.restarts()[0]:
            Path("happened").write_text(str(time.time()))
            type(self).fault(self)
        super().run_step()


def train(photos: Path, processes: int, fault: str, restarts: int, again: bool) -> int:
    """What a child does."""
    FaultyTrainer.fault = FAULTS[fault][0] if fault else None
    trainer.Trainer = FaultyTrainer
    launch.LaunchConfig = functools.partial(launch.LaunchConfig, start_method="fork")
    options = [
        "--num-gpus",
        str(processes),
        "--max-restarts",
        str(restarts),
        "SOLVER.IMS_PER_BATCH",
        str(2 * processes),
    ]
    return command_line.main(["train", *tiny_options(photos), *options])


def evaluate(weights: Path, processes: int, again: bool) -> int:
    launch.LaunchConfig = functools.partial(launch.LaunchConfig, start_method="fork")
    return command_line.main(["evaluate", "--weights", str(weights), "OUTPUT_DIR", "run", "--num-gpus", str(processes)])


class Campaign:
    """Jobs, and a row of results for each.

    Args:
        output: folder for data, logs and results.
    """

    def __init__(self, output: Path) -> None:
        self.output = output.absolute()
        self.output.mkdir(parents=True, exist_ok=True)
        self.photos, self.file = self.output / "photos", self.output / "results.json"
        self.rows: list[dict[str, Any]] = json.loads(self.file.read_text()) if self.file.is_file() else []
        if not self.photos.is_dir():
            write_photos(self.photos)

    def run(self, name: str, work: Callable[[bool], int]) -> tuple[Path, int | None, str]:
        """A job in a folder of its own: that folder, its exit status and its last words."""
        folder, log = self.output / name.replace(" ", "_"), self.output / f"{name.replace(' ', '_')}.txt"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        log.unlink(missing_ok=True)
        child = Child(Job(name, work), folder, log)
        status = child.wait(PATIENCE)
        child.signal(signal.SIGKILL, "group")
        lines = log.read_text(errors="replace").strip().splitlines()
        return folder, status, lines[-1] if lines else ""

    def reference(self, processes: int) -> Path:
        """The final checkpoint of a job in which nothing goes wrong."""
        path = self.output / f"none_{processes}" / "run" / "model_final.pth"
        if not path.is_file():
            self.run(f"none {processes}", functools.partial(train, self.photos, processes, "", 0))
        return path

    def fault(self, processes: int, fault: str, restarts: int) -> dict[str, Any]:
        """One job, and whether it ends as it should."""
        work = functools.partial(train, self.photos, processes, fault, restarts)
        folder, status, words = self.run(f"{fault} {processes} {restarts}", work)
        happened = folder / "happened"
        row = {"processes": processes, "fault": fault, "restarts": restarts, "status": status}
        if not happened.is_file():
            return row | {"result": "the fault did not happen", "good": False}
        row["seconds"] = round(time.time() - float(happened.read_text()), 1)
        if restarts:
            equal = status == 0 and digest(folder / "run/model_final.pth") == digest(self.reference(processes))
            return row | {"result": "equal weights" if equal else words, "good": equal}
        named = f"process {processes - 1}" in words and FAULTS[fault][1] in words
        return row | {"result": words, "good": status == 1 and named and row["seconds"] < LIMIT}

    def evaluation(self, processes: int) -> dict[str, Any]:
        """Evaluates three images with so many processes."""
        weights = self.reference(2)
        metrics = []
        for number in (1, processes):
            folder, status, words = self.run(f"evaluate {number}", functools.partial(evaluate, weights, number))
            metrics += [file.read_text() for file in folder.rglob("metrics.json")]
        row = {"processes": processes, "fault": "none: evaluation", "status": status}
        return row | {"result": words, "good": len(metrics) == 2 and metrics[0] == metrics[1]}

    def note(self, row: dict[str, Any]) -> None:
        print(row, flush=True)
        self.rows.append(row)
        self.file.write_text(json.dumps(self.rows, indent=1))

    def has(self, processes: int, fault: str, restarts: int | None) -> bool:
        key = (processes, fault, restarts)
        return any((row["processes"], row["fault"], row.get("restarts")) == key for row in self.rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--restarts", type=int, nargs="+", choices=(0, 1), default=[0, 1])
    parser.add_argument("--output", type=Path, default=Path("output/reliability/processes"))
    args = parser.parse_args(arguments)
    campaign = Campaign(args.output)
    for processes in args.processes:
        for fault in args.faults:
            for restarts in args.restarts:
                if not campaign.has(processes, fault, restarts):
                    campaign.note(campaign.fault(processes, fault, restarts))
        if not campaign.has(processes, "none: evaluation", None):
            campaign.note(campaign.evaluation(processes))
    print(tabulate.tabulate(campaign.rows, headers="keys", tablefmt="github"))
    return int(not all(row["good"] for row in campaign.rows))


if __name__ == "__main__":
    sys.exit(main())
