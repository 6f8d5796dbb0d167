#!/usr/bin/env python
"""Trains every experiment of a list with every seed, and makes the table that compares them.

    python tools/run_experiments.py --list tools/experiments/camvid.yaml --set parts --jobs 2 --threads 1
    python tools/run_experiments.py --list tools/experiments/camvid.yaml --set parts --table

What is done is skipped and what was interrupted continues, so the same command starts and restarts everything.
KEY VALUE pairs after -- override every config, such as `-- MODEL.CLIP.TEXT_NAME hf:/models/minilm`.

Each run has a folder, OUTPUT/EXPERIMENT/seedN, with a log (output.txt) and run.json: config, overrides, seed, commit,
iterations, seconds (of all attempts) and seconds per iteration, peak memory in MB, metrics in percent.
"""

import argparse
import json
import logging
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import ttest_rel

logger = logging.getLogger("experiments")

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "train_net.py")
SIGNIFICANT = 0.05
LEAST_SEEDS = 3  # of a test: two that happen to agree would pass for certainty


@dataclass(frozen=True)
class Run:
    """One training: an experiment of a list with one seed."""

    experiment: str
    config: str  # path from the repository's root
    overrides: tuple[str, ...]  # KEY, VALUE, KEY, VALUE, ...
    seed: int
    folder: Path

    def settings(self) -> dict[str, Any]:
        """What must not differ between attempts of a run."""
        return {"config": self.config, "overrides": list(self.overrides), "seed": self.seed}

    def record(self) -> dict[str, Any]:
        """Its run.json; {} before the first attempt has ended.

        Raises:
            ValueError: the folder holds a run with other settings.
        """
        file = self.folder / "run.json"
        if not file.is_file():
            return {}
        record = json.loads(file.read_text())
        for name, value in self.settings().items():
            if record[name] != value:
                raise ValueError(
                    f"{file} is of a run with another {name}: {record[name]}, now {value}. Choose another --output, or "
                    "delete the folder"
                )
        return record


def read_list(file: Path, chosen: str) -> dict[str, Any]:
    """The set of a list: {"runs": {experiment: {"config": ..., "overrides": {...}}}, "seeds": [...], "baseline": ...}.

    Raises:
        ValueError: no such set, an experiment that the list does not describe, or a baseline outside of the set.
    """
    content = yaml.safe_load(file.read_text())
    sets, described = content["sets"], content["experiments"]
    if chosen not in sets:
        raise ValueError(f"{file} has no set {chosen!r}; its sets: {', '.join(sets)}")
    group = sets[chosen]
    if unknown := [name for name in group["experiments"] if name not in described]:
        raise ValueError(f"{file}: set {chosen} names {', '.join(unknown)}, which `experiments` does not describe")
    if group["baseline"] not in group["experiments"]:
        raise ValueError(f"{file}: the baseline {group['baseline']} of set {chosen} is none of its experiments")
    runs = {name: described[name] for name in group["experiments"]}
    return {"runs": runs, "seeds": group["seeds"], "baseline": group["baseline"]}


def runs_of(group: Mapping[str, Any], seeds: list[int], output: Path, opts: list[str]) -> list[Run]:
    """All runs of a set, seed by seed, so that a table of fewer seeds is complete early."""
    return [
        Run(
            experiment=name,
            config=experiment["config"],
            overrides=(*flat(experiment.get("overrides") or {}), *opts),
            seed=seed,
            folder=output / name / f"seed{seed}",
        )
        for seed in seeds
        for name, experiment in group["runs"].items()
    ]


def flat(overrides: Mapping[str, Any]) -> list[str]:
    return [str(part) for pair in overrides.items() for part in pair]


class Runner:
    """Trains runs in processes of their own.

    Args:
        threads: of each process.
    """

    def __init__(self, *, threads: int) -> None:
        self.threads = threads
        self.stopped = False
        self.processes: set[subprocess.Popen] = set()

    def stop(self, *_: object) -> None:
        """Makes the running processes save a checkpoint and end, and starts no others."""
        self.stopped = True
        for process in list(self.processes):
            process.terminate()

    def train(self, run: Run) -> bool:
        """Trains a run, or continues it, unless it is done. Returns whether it is."""
        earlier = run.record()
        if earlier.get("done") or self.stopped:
            return bool(earlier.get("done"))
        logger.info("%s, seed %d: starts", run.experiment, run.seed)
        run.folder.mkdir(parents=True, exist_ok=True)
        start, code = time.monotonic(), commit()
        status, peak = self._run_process(run)
        seconds = earlier.get("seconds", 0) + time.monotonic() - start
        record = {"experiment": run.experiment, **run.settings(), "commit": code, "done": status == 0}
        record |= {"seconds": round(seconds, 3), "peak_memory_mb": max(peak, earlier.get("peak_memory_mb", 0))}
        record |= results_of(run.folder) if status == 0 else {}
        part = run.folder / "run.json.part"
        part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        part.replace(run.folder / "run.json")
        if status:
            logger.error(
                "%s, seed %d: ended with %d; see %s", run.experiment, run.seed, status, run.folder / "output.txt"
            )
        else:
            for checkpoint in run.folder.glob("model_0*.pth"):  # model_final.pth stays
                checkpoint.unlink()
            logger.info("%s, seed %d: mIoU %.2f, %.0f s", run.experiment, run.seed, record["metrics"]["mIoU"], seconds)
        return status == 0

    def _run_process(self, run: Run) -> tuple[int, int]:
        """Exit status and peak memory in MB."""
        options = ["--config-file", run.config, "--resume", *run.overrides]
        options += ["SEED", str(run.seed), "OUTPUT_DIR", str(run.folder.absolute())]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        with (run.folder / "output.txt").open("a") as log:
            process = subprocess.Popen(
                [*COMMAND, *options],
                cwd=ROOT, env=environment, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C reaches it once, through `stop`
            )  # fmt: skip
            self.processes.add(process)
            _, status, usage = os.wait4(process.pid, 0)
        self.processes.discard(process)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_maxrss // 1024


def commit() -> str:
    """The commit of the code, with "-dirty" if files differ from it; "" outside of a clone."""
    described = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    return subprocess.run(described, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def results_of(folder: Path) -> dict[str, Any]:
    """Iterations, seconds per iteration (median) and metrics from the files of a finished run."""
    steps = [json.loads(line) for line in (folder / "training_metrics.json").read_text().splitlines()]
    metrics = json.loads((folder / "metrics.json").read_text())
    return {
        "iterations": yaml.safe_load((folder / "config.yaml").read_text())["SOLVER"]["MAX_ITER"],
        "seconds_per_iteration": round(statistics.median(step["time"] for step in steps if "time" in step), 3),
        "metrics": {name.removeprefix("sem_seg/"): value for name, value in metrics.items()},
    }


def comparison(results: Mapping[str, Mapping[int, Mapping[str, float]]], baseline: str, metric: str) -> dict[str, str]:
    """For each experiment, how a metric differs from the baseline's, and whether more than seeds do.

    A paired t-test over the seeds that both have, at least LEAST_SEEDS, corrected for the number of comparisons (Holm).

    Args:
        results: experiment -> seed -> metrics.
    """
    gains, chances, told = {}, {}, {}
    reference = results.get(baseline, {})
    for name, seeds in results.items():
        common = sorted(seeds.keys() & reference.keys())
        if name == baseline or not common:  # nothing to pair
            continue
        pairs = [(seeds[seed][metric], reference[seed][metric]) for seed in common]
        gains[name] = statistics.mean(own - other for own, other in pairs)
        told[name] = f"{gains[name]:+.2f} ({len(pairs)} {'seeds' if len(pairs) > 1 else 'seed'})"
        if len(pairs) >= LEAST_SEEDS:
            chance = float(ttest_rel(*zip(*pairs, strict=True)).pvalue)
            chances[name] = 1.0 if math.isnan(chance) else chance  # no difference at all
    corrected = 0.0
    for rank, (name, chance) in enumerate(sorted(chances.items(), key=lambda item: item[1])):
        corrected = max(corrected, min(1.0, chance * (len(chances) - rank)))
        verdict = "significant" if corrected < SIGNIFICANT else "not significant"
        told[name] = f"{gains[name]:+.2f} ({verdict}, p = {corrected:.3f})"
    return told


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; of one value, itself."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def mean_or_dash(values: list[float | None]) -> str:
    """Mean of what is not None: a class that a model neither meets nor predicts has no IoU."""
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.1f}" if known else "-"


def tables(results: Mapping[str, Mapping[int, Mapping[str, float]]], baseline: str) -> str:
    """Two Markdown tables: means over seeds against the baseline, and the IoU of each class.

    Args:
        results: experiment -> seed -> metrics; at least one.
        baseline: an experiment.
    """
    told = comparison(results, baseline, "mIoU")
    runs = [metrics for seeds in results.values() for metrics in seeds.values()]
    keys = [key for key in ("mIoU", "boundary_mIoU") if all(key in metrics for metrics in runs)]
    columns = ["seeds", *(key.replace("_", " ") for key in keys), f"mIoU against {baseline}"]
    rows = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, seeds in results.items():
        means = [spread([metrics[key] for metrics in seeds.values()]) for key in keys]
        rows.append(f"| {name} | {len(seeds)} | {' | '.join(means)} | {told.get(name, '')} |")
    classes = [key for key in runs[0] if key.startswith("IoU-")]
    rows += [
        "",
        f"| IoU | {' | '.join(key.removeprefix('IoU-') for key in classes)} |",
        "|---" * (len(classes) + 1) + "|",
    ]
    for name, seeds in results.items():
        means = [mean_or_dash([metrics[key] for metrics in seeds.values()]) for key in classes]
        rows.append(f"| {name} | {' | '.join(means)} |")
    note = f"Differences: paired t-test over seeds, Holm's correction, significant if p < {SIGNIFICANT}."
    return "\n".join([*rows, "", note])


def finished(runs: list[Run]) -> dict[str, dict[int, dict[str, float]]]:
    """Metrics of the runs that are done, whatever their overrides: experiment -> seed -> metrics."""
    results: dict[str, dict[int, dict[str, float]]] = {}
    for run in sorted(runs, key=lambda run: [other.experiment for other in runs].index(run.experiment)):
        file = run.folder / "run.json"
        record = json.loads(file.read_text()) if file.is_file() else {}
        if record.get("done"):
            results.setdefault(run.experiment, {})[run.seed] = record["metrics"]
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--list",
        type=Path,
        default=ROOT / "tools" / "experiments" / "camvid.yaml",
        help="YAML file with experiments and sets of them",
    )
    parser.add_argument("--set", required=True, help="which set of the list")
    parser.add_argument("--output", type=Path, default=Path("output/experiments"))
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of those of the set")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run (1)")
    parser.add_argument("--table", action="store_true", help="train nothing; print the tables of what is done")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides of every config, after --")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    group = read_list(args.list, args.set)
    runs = runs_of(group, args.seeds or group["seeds"], args.output, args.opts)
    if args.table:
        if not (results := finished(runs)):
            parser.error(f"{args.output}: no run of the set {args.set!r} is done yet")
        print(tables(results, group["baseline"]))
        return 0
    for run in runs:
        run.record()  # refuses other settings now, not after hours
    runner = Runner(threads=args.threads)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, runner.stop)
    with ThreadPoolExecutor(args.jobs) as pool:
        done = list(pool.map(runner.train, runs))
    logger.info("%d of %d runs are done", sum(done), len(done))
    return int(not all(done))


if __name__ == "__main__":
    sys.exit(main())
