#!/usr/bin/env python
"""Kills jobs at random moments, starts them again, and compares what they leave with an uninterrupted job: `make kill`.

    python tools/reliability/kill_anywhere.py --kills 200 --output output/reliability/kill
    python tools/reliability/kill_anywhere.py --only train --seed 3 --kills 20
    python tools/reliability/kill_anywhere.py --faults            # also a full disk, a read-only folder, ...; as root

Jobs: training (then --resume), evaluation, prediction, checking, saving a model, preparing two datasets. A trial is one
job that is killed two to five times, with SIGKILL, SIGTERM or SIGINT; the main process, all of its processes or one
worker; at a random time, or when it is about to change the file system for a random time. Then it runs to its end. What
has to hold: each file that is there after a kill is whole, and so are the files of the user; SIGTERM and SIGINT end the
job within seconds and without a traceback; no process stays behind; in the end all files are those of an uninterrupted
job, checkpoints bit by bit.

The seed decides jobs, signals and moments, but the times at which signals arrive depend on the machine. Each trial is a
line of OUTPUT/trials.jsonl; the same command continues. Jobs are forked from a process that has imported everything, so
that signals do not hit imports, and use one thread.
"""

import argparse
import itertools
import json
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tabulate

from kill_jobs import Child, Job, at_change, count_changes, jobs, session_of, write_photos  # isort: skip  (finds mta_clip)
from kill_evidence import LOGS, damaged, differences, state_of
from kill_faults import FAULTS

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
VICTIMS = {signal.SIGKILL: ("main", "group", "worker"), signal.SIGTERM: ("main",), signal.SIGINT: ("group",)}
PATIENCE = 120.0  # seconds in which a job ends by itself
GRACE = 10.0  # seconds in which the processes of a killed job disappear
_CHECKPOINT = re.compile(r"run/model_\d+\.pth$")
NEED_MODEL = {"evaluate", "predict", "save"}
# Python says this of a Ctrl-C that comes while it forks a loader's worker; the run still notes it, and stops later.
LOST_IN_FORK = "Exception ignored in: <function _releaseLock"
USER_FILE = "notes.txt"  # in the folder of the output
SHARES = {"train": 3, "evaluate": 2, "predict": 2, "check": 2, "save": 2, "prepare_ade20k": 2, "prepare_cityscapes": 2}


@dataclass(frozen=True)
class Reference:
    """An uninterrupted job."""

    state: dict[str, str]
    seconds: float
    changes: int  # of the file system, by the main process
    size: int  # bytes on the disk


@dataclass
class Trial:
    """One job that is killed several times; what it found is a line of trials.jsonl."""

    name: str
    job: str
    kills: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    missed: int = 0  # signals that came after the end
    troubles: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Campaign:
    """All trials of a seed.

    Args:
        output: folder for data, logs and results.
        only: names of jobs; None: all.
    """

    def __init__(self, output: Path, *, seed: int, only: Sequence[str] | None = None) -> None:
        self.output, self.seed, self.world = output.absolute(), seed, output.absolute() / "world"
        self.all = {job.name: job for job in jobs(self.world)}
        self.jobs = {name: self.all[name] for name in only or self.all}
        self.references: dict[str, Reference] = {}
        self.log = self.output / "log.txt"

    def prepare(self) -> None:
        """Makes the data, and runs each job once without interruption; the model is that of the training."""
        shutil.rmtree(self.world, ignore_errors=True)
        write_photos(self.world / "photos")
        model = {"train": self.all["train"]} if NEED_MODEL & self.jobs.keys() else {}
        for job in (model | self.jobs).values():
            folder, changes = self.folder(job, "reference"), self.output / "changes"
            changes.write_text("0")
            start = time.monotonic()
            child = Child(job, folder, self.log, fault=count_changes(changes))
            if child.wait(10 * PATIENCE) != 0:
                raise RuntimeError(f"{job.name} fails without being killed; see {self.log}")
            seconds = time.monotonic() - start
            size = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
            self.references[job.name] = Reference(state_of(folder), seconds, int(changes.read_text()), size)
            if job.name == "train":
                shutil.copytree(folder / "run", self.world / "model", ignore=shutil.ignore_patterns(*LOGS))
        self.inputs = state_of(self.world)

    def folder(self, job: Job, name: str) -> Path:
        """An empty working directory, but for what the job changes and a file of the user."""
        folder = self.output / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "run").mkdir(parents=True)
        job.begin(folder)
        if job.name != "save":  # which takes no folder with something else in it
            (folder / "run" / USER_FILE).write_text("mine")
        return folder

    def _attempt(self, rng: random.Random, job: Job, folder: Path, again: bool, trial: Trial) -> None:
        signum = rng.choice(SIGNALS)
        victim = rng.choice(VICTIMS[signum])
        reference, what = self.references[job.name], f"{signal.Signals(signum).name} to {victim}"
        if victim == "main" and reference.changes and rng.random() < 0.5:
            change = rng.randint(1, reference.changes)
            what += f" at change {change}"
            child = Child(job, folder, self.log, again=again, fault=at_change(change, signum))
            hit = child.wait(PATIENCE) != 0  # a resumed job has fewer changes
        else:
            seconds = rng.uniform(0, reference.seconds)
            what += f" after {seconds:.2f} s"
            child = Child(job, folder, self.log, again=again)
            hit = child.wait(seconds) is None and child.signal(signum, victim)  # else it has ended, or has no worker
        trial.kills += [what] if hit else []
        trial.missed += not hit
        allowed = {0, -signum, 128 + signum} | ({1} if victim == "worker" else set())
        self._check_end(child, folder, what, allowed, trial)

    def _check_end(self, child: Child, folder: Path, what: str, allowed: Container[int], trial: Trial) -> None:
        status = child.wait(PATIENCE)
        if status is None:
            trial.troubles.append(f"{what}: still runs after {PATIENCE:.0f} s")
            child.signal(signal.SIGKILL, "group")
        elif status not in allowed:
            trial.troubles.append(f"{what}: exit status {status}")
        deadline = time.monotonic() + GRACE
        while (left := session_of(child.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            trial.troubles.append(f"{what}: {len(left)} processes stay behind")
            child.signal(signal.SIGKILL, "group")
        trial.troubles += [f"{what}: {trouble}" for trouble in damaged(folder)]

    def _finish(self, job: Job, folder: Path, trial: Trial) -> None:
        """Lets a job run to its end, and compares."""
        status = Child(job, folder, self.log, again=True).wait(2 * PATIENCE)
        if status != 0:
            trial.troubles.append(f"in the end: exit status {status}")
        state = state_of(folder)
        reference = self.references[job.name].state
        if any(name in kill for name in ("SIGINT", "SIGTERM") for kill in trial.kills):  # they save checkpoints
            state = {name: value for name, value in state.items() if name in reference or not _CHECKPOINT.match(name)}
        trial.troubles += differences(reference, state)
        trial.troubles += [f"input {line}" for line in differences(self.inputs, state_of(self.world))]

    @contextmanager
    def _noted(self, trial: Trial) -> Iterator[None]:
        """Notes the seconds, and tracebacks, which end in a file of their own."""
        start, text = time.monotonic(), self.log.stat().st_size
        yield
        trial.seconds = round(time.monotonic() - start, 1)
        said = self.log.read_bytes()[text:].decode()
        traceback = said.count("Traceback") > said.count(LOST_IN_FORK)
        if traceback or trial.troubles:
            file = self.output / f"{trial.name}.txt"
            file.write_text(said)
            trial.troubles += [f"a traceback; see {file.name}"] if traceback else []

    def kill(self, number: int) -> Trial:
        """Runs a trial: a job that is killed two to five times, and then ends."""
        rng = random.Random(f"{self.seed}/{number}")
        job = rng.choices(list(self.jobs.values()), [SHARES[name] for name in self.jobs])[0]
        trial = Trial(f"kill_{number}", job.name)
        with self._noted(trial):
            folder = self.folder(job, "trial")
            for attempt in range(rng.randint(2, 5)):
                self._attempt(rng, job, folder, attempt > 0, trial)
            self._finish(job, folder, trial)
        return trial

    def fault(self, name: str, job: Job) -> Trial:
        """Runs a job with a fault of the file system or the clock, and again without it."""
        trial = Trial(f"fault_{name}_{job.name}".replace(" ", "_"), job.name, faults=[name])
        with self._noted(trial):
            folder = self.folder(job, "trial")
            with FAULTS[name](folder / "run", self.references[job.name].size) as fault:
                child = Child(job, folder, self.log, fault=fault.in_child)
                self._check_end(child, folder, name, fault.statuses, trial)
                fault.lift()
                self._finish(job, folder, trial)
        return trial

    def run(self, kills: int, faults: bool) -> list[Trial]:
        """All trials until there are so many kills; those of an earlier call are not repeated."""
        file = self.output / "trials.jsonl"
        trials = [Trial(**json.loads(line)) for line in file.read_text().splitlines()] if file.is_file() else []
        done = {trial.name for trial in trials}

        def note(trial: Trial) -> None:
            trials.append(trial)
            with file.open("a") as lines:
                lines.write(json.dumps(asdict(trial)) + "\n")
            print(f"{trial.name} {trial.job} {trial.kills or trial.faults} {trial.troubles or 'ok'}", flush=True)

        for name, job in itertools.product(FAULTS if faults else (), self.jobs.values()):
            if f"fault_{name}_{job.name}".replace(" ", "_") not in done:
                note(self.fault(name, job))
        for number in itertools.count():
            if sum(len(trial.kills) for trial in trials) >= kills:
                return trials
            if f"kill_{number}" not in done:
                note(self.kill(number))


def report(trials: Sequence[Trial]) -> str:
    """Markdown: kills of each job by signal, the trials with faults, and what went wrong."""
    names = [signal.Signals(number).name for number in SIGNALS]
    rows = []
    for job in SHARES:
        own = [trial for trial in trials if trial.job == job]
        kills = [kill for trial in own for kill in trial.kills]
        counts = [sum(kill.startswith(f"{name} ") for kill in kills) for name in names]
        faults, wrong = sum(len(trial.faults) for trial in own), sum(bool(trial.troubles) for trial in own)
        rows.append((job, *counts, len(kills), faults, len(own), wrong))
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    table = tabulate.tabulate(rows, ["job", *names, "kills", "faults", "trials", "with trouble"], tablefmt="github")
    return "\n".join(
        [table, "", *(f"- {trial.name}, {trial.job}: {line}" for trial in trials for line in trial.troubles)]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=SHARES, metavar="JOB", help="jobs: " + ", ".join(SHARES))
    parser.add_argument("--faults", action="store_true", help="also a full disk and the like; needs root")
    parser.add_argument("--output", type=Path, default=Path("output/reliability/kill"))
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(args.output, seed=args.seed, only=args.only)
    campaign.prepare()
    trials = campaign.run(args.kills, args.faults)
    (args.output / "results.md").write_text(report(trials) + "\n")
    print(report(trials))
    return int(any(trial.troubles for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
