#!/usr/bin/env python
"""Measures on a GPU whatever is worth knowing there, in stages, the most important first: `make gpu`.

    python tools/gpu_campaign.py --minutes 9 --output output/gpu
    python tools/gpu_campaign.py --official ../Mask2Former -- MODEL.CLIP.PRETRAINED RN50.pt
    python tools/gpu_campaign.py --minutes 0                      # only writes the tables
    python tools/gpu_campaign.py --rehearse --minutes 30 --output /tmp/rehearsal     # tiny sizes, on the CPU

Each stage runs in a process of its own, which is killed at the stage's limit, and writes each result into
OUTPUT/<stage>.json at once. OUTPUT/results.md has all tables; it is rewritten after every stage. The same command
goes on where it was cut off: finished stages and rows are kept, failed ones are tried again. OUTPUT/<stage>.log has
what a stage printed. gpu_stages.py says what the stages do. KEY VALUE pairs after -- are for the training on CamVid.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tabulate
from gpu_plan import GPU_LOST

STAGES_SCRIPT = Path(__file__).with_name("gpu_stages.py")
LEAST_SECONDS = 10  # with less left, no stage starts
LAST_LINES = 8  # of a failed stage's log are shown


@dataclass(frozen=True)
class Stage:
    """What runs in one process."""

    name: str
    title: str
    seconds: int  # of nine minutes; its share in the time that is left to it and the stages after it


STAGES = (
    Stage("smoke", "Environment, and one training step and one image with every model", 50),
    Stage("tests", "Tests: `pytest -m 'gpu or golden'`, golden numbers on the GPU, without TF32", 75),
    Stage("inference", "Inference, from normalised image to label map", 100),
    Stage("sampling", "Forms of deformable sampling", 25),
    Stage("training", "Training step: forward and backward", 45),
    Stage("loading", "Data loading: images per second of the training loader", 25),
    Stage("profile", "Profile: the ten largest kernels", 25),
    Stage("camvid", "CamVid, trained for three minutes or what is left", 195),
)
PLANNED_MINUTES = 9


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit(143))  # ends the running stage on the way out
    deadline = time.monotonic() + 60 * args.minutes
    chosen = [stage for stage in STAGES if not args.stages or stage.name in args.stages]
    pending = [stage for stage in chosen if read(args.output, stage.name).get("status") != "done"]
    write(args.output / "results.md", report(args.output))
    while pending and (left := deadline - time.monotonic()) >= LEAST_SECONDS:
        limit = left * pending[0].seconds / sum(stage.seconds for stage in pending)
        print(f"{pending[0].name}: at most {limit:.0f} s", flush=True)
        run_stage(pending.pop(0), limit, args)
        write(args.output / "results.md", report(args.output))
    print((args.output / "results.md").read_text())
    return int(any(read(args.output, s.name).get("status") not in ("done", "skipped") for s in chosen))


def run_stage(stage: Stage, limit: float, args: argparse.Namespace) -> None:
    """Runs a stage until it ends or its time is over, and notes in its file which of the two it was.

    Where a row has broken the connection to the GPU, a new process goes on behind it.
    """
    file, folder = args.output / f"{stage.name}.json", args.output / stage.name
    until = time.time() + limit
    command = [sys.executable, str(STAGES_SCRIPT), stage.name, "--json", str(file), "--until", f"{until:.1f}"]
    command += ["--rehearse"] if args.rehearse else []
    command += ["--official", str(args.official)] if args.official else []
    start, status = time.monotonic(), "cut off"  # whatever ends this process leaves that behind
    shutil.rmtree(folder, ignore_errors=True)
    try:
        returned = run_process([*command, "--opts", *args.opts], file.with_suffix(".log"), until)
        while returned == GPU_LOST:
            returned = run_process([*command, "--keep-errors", "--opts", *args.opts], file.with_suffix(".log"), until)
        status = {0: "done"}.get(returned, f"failed (exit status {returned}; see {stage.name}.log)")
    except subprocess.TimeoutExpired:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        record = read(args.output, stage.name)
        failed = sum("error" in row for row in record.get("rows", []))
        if status == "done" and failed:
            status = f"{failed} failed"
        if status == "done" and record.get("skipped"):
            status = "skipped"
        record |= {"status": status, "seconds": round(record.get("seconds", 0) + time.monotonic() - start, 1)}
        write(file, json.dumps(record, indent=1))
        if "failed" in status:
            print(*file.with_suffix(".log").read_text().splitlines()[-LAST_LINES:], sep="\n", flush=True)


def run_process(command: Sequence[str], log: Path, until: float) -> int:
    """Runs a command, of which nothing is left at the end, and adds what it prints to a file.

    Args:
        until: Unix time at which it is killed.

    Returns:
        Its exit status.

    Raises:
        TimeoutExpired: it was killed.
    """
    with log.open("a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait(timeout=max(until - time.time(), 0))
        finally:
            with contextlib.suppress(ProcessLookupError):  # its children, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def read(output: Path, name: str) -> dict:
    """The file of a stage; {} if it has not started."""
    file = output / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def write(file: Path, text: str) -> None:
    """Replaces a file as a whole, so that it is complete at any time."""
    part = file.with_name(file.name + ".part")
    part.write_text(text + "\n")
    part.replace(file)


def report(output: Path) -> str:
    """All results as Markdown."""
    parts = ["# On a GPU"]
    for stage in STAGES:
        record = read(output, stage.name)
        status = record.get("status", "not started")
        parts.append(f"## {stage.title}\n{status}" + (f", {record['seconds']:.0f} s" if "seconds" in record else ""))
        if record.get("rows"):
            parts.append(rows_as_table(record["rows"]))
        parts += [f"- {note}" for note in record.get("notes", [])]
    return "\n\n".join(parts)


def rows_as_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the columns of all; numbers with four significant digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in columns] for row in rows]
    return tabulate.tabulate(cells, headers=columns, tablefmt="github", disable_numparse=True)


def _cell(value: object) -> str:
    if isinstance(value, float):
        value = f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return str(value).replace("|", "/").replace("\n", " ")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=PLANNED_MINUTES, help="of the whole; each stage has its share (9)"
    )
    parser.add_argument("--output", type=Path, default=Path("output/gpu"))
    parser.add_argument(
        "--stages", nargs="+", choices=[stage.name for stage in STAGES], help="only these; default: all"
    )
    parser.add_argument(
        "--official", type=Path, metavar="PATH", help="checkout of the official Mask2Former, to compare"
    )
    parser.add_argument("--rehearse", action="store_true", help="the same on the CPU, with tiny sizes")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides of CamVid's config, after --")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
