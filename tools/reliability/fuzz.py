#!/usr/bin/env python
"""Gives hostile and broken inputs to the code, and counts what comes of them: `make fuzz`.

    python tools/reliability/fuzz.py --inputs 5000 --minutes 15 --output output/fuzz
    python tools/reliability/fuzz.py --recipes tools/reliability/findings.jsonl       # only what found something before

Each batch runs in a process of its own, which is ended if an input takes longer than --seconds, or more memory than
--memory MiB on top of what the process had before it. A right result is right; else there must be one clear message,
exit status 1 and no traceback. Inputs that lead to anything else are appended to OUTPUT/findings.jsonl, one per line.
The same command goes on where it was cut off; fuzz_inputs.py says what the inputs are.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package beside it, whichever is installed
BATCH = 250
# Of a campaign: the kinds of inputs, and how many of each hundred.
SHARES = {
    "image": 22,
    "label map": 16,
    "folder": 12,
    "config": 10,
    "class names": 16,
    "checkpoint": 16,
    "command line": 8,
}
MIB = 1024 * 1024


def draw(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Different recipes of a kind, always the same ones for a seed (and a version of Hypothesis)."""
    from fuzz_inputs import STRATEGIES
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    recipes: dict[str, None] = {}  # as JSON
    bounds = {"max_examples": count, "database": None, "deadline": None, "phases": [Phase.generate]}

    @settings(**bounds, suppress_health_check=list(HealthCheck))
    @given(STRATEGIES[kind]())
    def collect(recipe: dict[str, Any]) -> None:
        recipes.setdefault(json.dumps(recipe, sort_keys=True))

    attempts = itertools.count()
    while len(recipes) < count:  # Hypothesis draws some more than once
        seeded(f"{seed}/{next(attempts)}")(collect)()
    return [json.loads(recipe) for recipe in itertools.islice(recipes, count)]


def batches(inputs: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """(kind, count, seed) of each batch, the kinds in turn."""
    left = {kind: max(1, round(inputs * share / 100)) for kind, share in SHARES.items()}
    number = seed
    while any(left.values()):
        for kind in [kind for kind, count in left.items() if count]:
            count = min(BATCH, left[kind])
            left[kind] -= count
            yield kind, count, number
            number += 1


def peak_memory() -> int:
    """Most memory in bytes that this process had since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def work(job: dict[str, Any]) -> None:
    """Tries the recipes of a batch, in this process; writes one JSON line before and one after each."""
    from fuzz_trials import TRIALS, Wrong

    recipes = job["recipes"] if "recipes" in job else draw(job["kind"], job["count"], job["seed"])
    limit = peak_memory() + job["memory"] * MIB + 8 * 1024 * MIB  # of address space: more than the memory that counts
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with open(job["record"], "a") as record, open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)  # what workers and C code print
        os.dup2(nothing.fileno(), 2)
        for number, recipe in enumerate(recipes[job["skip"] :], start=job["skip"]):
            print(json.dumps({"number": number, "start": time.time(), "recipe": recipe}), file=record, flush=True)
            reset_peak()
            before, start, found = peak_memory(), time.process_time(), ""
            with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
                try:
                    verdict = TRIALS[job["kind"]](recipe, Path(folder))
                except Wrong as error:
                    verdict, found = "wrong", str(error)
                except MemoryError as error:
                    verdict, found = "wrong", f"memory: {error}"
            grown = (peak_memory() - before) // MIB
            if grown > job["memory"]:
                verdict, found = "wrong", f"{grown} MiB, more than {job['memory']}. {found}"
            row = {"number": number, "verdict": verdict, "found": found, "memory": grown}
            print(json.dumps(row | {"seconds": time.process_time() - start}), file=record, flush=True)


def run_batch(job: dict[str, Any], limit: float) -> None:
    """Runs a batch until it ends; after a crash or an input beyond `limit` seconds, goes on with the next input.

    Processes are forked, as importing the libraries takes longer than most batches.
    """
    record = Path(job["record"])
    while True:
        process = multiprocessing.get_context("fork").Process(target=work, args=(job,))
        process.start()
        while process.is_alive():
            process.join(1)
            last = last_row(record)
            if "start" in last and time.time() - last["start"] > limit:
                process.kill()
        last = last_row(record)
        if "start" not in last:
            if process.exitcode:
                raise RuntimeError(f"{job['kind']}: the batch ended with {process.exitcode} between inputs")
            return
        took = time.time() - last["start"]
        found = f"no end within {limit:.0f} s" if took > limit else f"the process ended with {process.exitcode}"
        with record.open("a") as file:
            row = {"number": last["number"], "verdict": "wrong", "found": found, "memory": 0, "seconds": 0}
            print(json.dumps(row), file=file)
        job = job | {"skip": last["number"] + 1}


def last_row(record: Path) -> dict[str, Any]:
    lines = record.read_text().splitlines() if record.is_file() else []
    return json.loads(lines[-1]) if lines else {}


def rows_of(record: Path) -> Iterator[dict[str, Any]]:
    """The inputs of a batch that have an end, each with its recipe."""
    recipe: Any = None
    for line in record.read_text().splitlines():
        row = json.loads(line)
        if "recipe" in row:
            recipe = row["recipe"]
        else:
            yield row | {"recipe": recipe}


def report(output: Path) -> str:
    """A Markdown table of all batches of a folder; writes findings.jsonl beside them."""
    verdicts: dict[str, Counter] = {}
    memory, seconds = Counter(), Counter()
    with (output / "findings.jsonl").open("w") as file:
        for record in sorted(output.glob("*.rows")):
            kind = record.stem.rsplit("-", 1)[0]
            for row in rows_of(record):
                verdicts.setdefault(kind, Counter())[row["verdict"]] += 1
                memory[kind] = max(memory[kind], row["memory"])
                seconds[kind] = max(seconds[kind], row["seconds"])
                if row["verdict"] == "wrong":
                    finding = {"kind": kind, "recipe": row["recipe"], "found": row["found"]}
                    print(json.dumps(finding), file=file)
    table = [
        "| inputs | number | right result | refused | findings | most memory, MiB | longest, s of CPU |",
        "|---" * 7 + "|",
    ]
    for kind, counts in verdicts.items():
        cells = [kind, counts.total(), counts["right"], counts["refused"], counts["wrong"], memory[kind]]
        table.append(f"| {' | '.join(map(str, cells))} | {seconds[kind]:.1f} |")
    total = sum(verdicts.values(), Counter())
    most = f"{max(memory.values(), default=0)} | {max(seconds.values(), default=0):.1f}"
    table.append(f"| all | {total.total()} | {total['right']} | {total['refused']} | {total['wrong']} | {most} |")
    return "\n".join(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=15, help="after which no batch starts (15)")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch; each has the next one")
    parser.add_argument("--kinds", nargs="+", choices=SHARES, help="only these")
    parser.add_argument("--seconds", type=float, default=120, help="that an input may take (120)")
    parser.add_argument("--memory", type=int, default=3072, metavar="MIB", help="that an input may take (3072)")
    parser.add_argument("--recipes", type=Path, help="a findings.jsonl, whose recipes are tried instead")
    parser.add_argument("--output", type=Path, default=Path("output/fuzz"))
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    warnings.simplefilter("ignore")  # of libraries, about inputs that are as strange as they should be
    import fuzz_trials

    fuzz_trials.tiny_model()
    end = time.monotonic() + 60 * args.minutes
    for job in known_jobs(args.recipes) if args.recipes else new_jobs(args):
        name = f"{job['kind']}-{job.get('seed', 'known')}"
        record = args.output / f"{name}.rows"
        if (args.output / f"{name}.done").exists() or time.monotonic() > end:
            continue
        skip = 1 + last_row(record).get("number", -1)
        run_batch(job | {"record": str(record), "memory": args.memory, "skip": skip}, args.seconds)
        (args.output / f"{name}.done").touch()
    table = report(args.output)
    print(table)
    return int(bool((args.output / "findings.jsonl").read_text()))


def new_jobs(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for kind, count, seed in batches(args.inputs, args.seed):
        if kind in (args.kinds or SHARES):
            yield {"kind": kind, "count": count, "seed": seed}


def known_jobs(file: Path) -> Iterator[dict[str, Any]]:
    findings = [json.loads(line) for line in file.read_text().splitlines()]
    for kind in dict.fromkeys(finding["kind"] for finding in findings):
        yield {"kind": kind, "recipes": [found["recipe"] for found in findings if found["kind"] == kind]}


if __name__ == "__main__":
    sys.exit(main())
