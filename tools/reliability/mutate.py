#!/usr/bin/env python
"""Changes the code in small ways, one at a time, and counts the changes that no test notices: `make mutation`.

    python tools/reliability/mutate.py --minutes 30 --output output/mutation               # all of them
    python tools/reliability/mutate.py --count 300                                         # a random sample
    python tools/reliability/mutate.py --only matcher --again                      # of one file; survivors again
    python tools/reliability/mutate.py --minutes 0 --output output/mutation                # only the tables

Each of SOURCES is tested by the test files beside it here, not by the whole suite. One process imports them all and
forks for each mutant; the fork changes its own memory (see mutants.py) and runs the tests until one fails. No file is
changed. A sample depends on --seed and --count alone; OUTPUT/results.jsonl keeps each verdict, and the same command
goes on where it was cut off. OUTPUT/results.md has the tables; a survivor that unseen_mutants.yaml explains does not
count.

mutmut 3.8 leaves out functions with decorators, which here are all constructors with a config; cosmic-ray 8.7 starts a
process for each mutant, which takes a dozen seconds of imports before its first test.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from mutants import Mutant, apply, mutants  # noqa: E402

EXPLAINED = Path(__file__).with_name("unseen_mutants.yaml")
MOST_SECONDS, MOST_BYTES = 600, 8 << 30  # of one mutant: it counts as noticed, as does one that computes far longer

NOT_MADE = 99  # exit status of a fork that could not make its change

_GOLDEN = "tests/integration/test_golden_criterion.py"
_CRITERION = "tests/modeling/criterion/test_criterion.py"
_CHECKPOINTER = "tests/checkpoint/test_checkpointer.py"
# Beside the tests of the same name: mta_clip/a/b.py has tests/a/test_b.py.
SOURCES = {
    "mta_clip/modeling/criterion/criterion.py": (_GOLDEN, "tests/checkpoint/test_class_rows.py"),
    "mta_clip/modeling/criterion/mask_losses.py": (_CRITERION, _GOLDEN),
    "mta_clip/modeling/criterion/matcher.py": (_CRITERION, _GOLDEN),
    "mta_clip/modeling/criterion/point_sampling.py": (_CRITERION, _GOLDEN),
    "mta_clip/modeling/criterion/similarity_loss.py": (_CRITERION, _GOLDEN),
    "mta_clip/modeling/criterion/targets.py": (_CRITERION,),
    "mta_clip/evaluation/counts.py": ("tests/evaluation/test_metrics.py",),
    "mta_clip/evaluation/metrics.py": (),
    "mta_clip/modeling/inference/sliding_window.py": (),
    "mta_clip/checkpoint/checkpointer.py": ("tests/checkpoint/test_class_rows.py",),
    "mta_clip/checkpoint/class_rows.py": (_CHECKPOINTER,),
    "mta_clip/checkpoint/readers.py": ("tests/checkpoint/test_restricted_pickle.py",),
    "mta_clip/checkpoint/restricted_pickle.py": ("tests/checkpoint/test_readers.py",),
    "mta_clip/checkpoint/writers.py": (_CHECKPOINTER,),
    "mta_clip/data/label_maps.py": (),
    "mta_clip/data/zero_shot.py": ("tests/modeling/tagclip/test_labels.py",),
    "mta_clip/modeling/tagclip/labels.py": (),
}


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    results = args.output / "results.jsonl"
    chosen = sample(args.count, args.seed, args.only)
    known = verdicts(results)
    done = ("noticed",) if args.again else ("noticed", "survived")
    left = [mutant for mutant in chosen if known.get(mutant.name) not in done]
    if args.minutes and left:
        in_a_process(Campaign(left, results, time.monotonic() + 60 * args.minutes), args.output / "tests.log")
    text = report(chosen, verdicts(results))
    (args.output / "results.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, help="mutants in a random sample (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only of sources whose path has this text")
    parser.add_argument("--minutes", type=float, default=15, help="no mutant starts later (default: 15)")
    parser.add_argument("--again", action="store_true", help="test survivors once more, after tests were added")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "mutation", help="folder of results")
    return parser.parse_args(arguments)


def sample(count: int | None, seed: int, only: str = "") -> list[Mutant]:
    """Those of a sample of all mutants of SOURCES whose source has `only` in its path, by source and line."""
    found = [mutant for source in SOURCES for mutant in mutants(ROOT, source)]
    chosen = random.Random(seed).sample(range(len(found)), min(count or len(found), len(found)))
    return [found[index] for index in sorted(chosen) if only in found[index].source]


def tests_of(source: str) -> tuple[str, ...]:
    """Test files of a source, from the root."""
    path = Path(source.replace("mta_clip/", "tests/", 1))
    return (path.with_name(f"test_{path.name}").as_posix(), *SOURCES[source])


def verdicts(results: Path) -> dict[str, str]:
    """{name: noticed | survived} of the mutants tested so far; the last verdict counts."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    return {record["name"]: record["verdict"] for record in map(json.loads, lines)}


@dataclass
class Campaign:
    """A pytest plugin that, instead of running the tests once, runs them in a fork for each mutant."""

    left: list[Mutant]
    results: Path
    deadline: float
    is_fork: bool = field(default=False, init=False)
    tests_take: float = field(default=0, init=False)  # CPU seconds, those of the source at hand, without a mutant

    def pytest_runtestloop(self, session) -> bool | None:  # pytest's own loop runs if it returns None
        gc.freeze()  # a fork that collects garbage would copy all memory
        for source in {mutant.source: None for mutant in self.left}:
            if (verdict := self._fork(session, source, None)) is None:
                return None
            if verdict == "noticed":
                raise SystemExit(f"The tests of {source} fail without a mutant: see tests.log.")
            for mutant in [mutant for mutant in self.left if mutant.source == source]:
                if time.monotonic() > self.deadline:
                    return True
                if (verdict := self._fork(session, source, mutant)) is None:
                    return None
                with self.results.open("a", encoding="utf-8") as file:
                    print(json.dumps({"name": mutant.name, "verdict": verdict}), file=file)
        return True

    def _fork(self, session, source: str, mutant: Mutant | None) -> str | None:
        """The verdict of a fork; None in the fork itself."""
        if child := os.fork():
            before = os.times()
            verdict = _verdict(child)
            if mutant is None:
                self.tests_take = os.times().children_user - before.children_user
            return verdict
        self.is_fork = True
        os.setsid()
        if mutant:  # several times what the tests need without one
            seconds = int(2 + 2 * self.tests_take)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
        order = tests_of(source)
        of_source = [item for item in session.items if _file_of(item) in order]
        session.items[:] = sorted(of_source, key=lambda item: order.index(_file_of(item)))
        if mutant:
            print(f"\n===== {mutant.name}", flush=True)
            try:
                apply(mutant)
            except NotImplementedError as error:
                print(error, flush=True)
                os._exit(NOT_MADE)
        return None


def _file_of(item) -> str:
    return item.path.relative_to(ROOT).as_posix()


def _verdict(child: int) -> str:
    """noticed, if a fork's tests fail, or break a limit; survived, if they pass; not made, if it could not change."""
    deadline = time.monotonic() + MOST_SECONDS
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what its tests have started
    return {0: "survived", NOT_MADE: "not made"}.get(os.waitstatus_to_exitcode(ended[1]), "noticed")


def in_a_process(campaign: Campaign, log: Path) -> None:
    """Collects the tests and runs a campaign, in a process whose output goes to `log`."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"The campaign ended with status {os.waitstatus_to_exitcode(status)}: see {log}")
        return
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = 1
    try:
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # each fork would import what they need
        import pytest

        os.chdir(ROOT)
        sys.path.insert(0, str(ROOT))
        files = sorted({file for mutant in campaign.left for file in tests_of(mutant.source)})
        with tempfile.TemporaryDirectory() as folder:
            options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", f"--basetemp={folder}/tests"]
            try:
                status = int(pytest.main([*options, *files], plugins=[campaign]))
            finally:
                if campaign.is_fork:
                    os._exit(status)  # the folder is the parent's
    finally:
        os._exit(status)


def report(chosen: Sequence[Mutant], known: dict[str, str]) -> str:
    """Markdown: mutants per source, and the survivors with why."""
    import yaml

    explained = yaml.safe_load(EXPLAINED.read_text(encoding="utf-8")) or {}
    heads = ("source", "mutants", "noticed", "cannot be seen", "survived", "noticed of those that can be seen")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    rows = []
    for source in SOURCES:
        tested = [m for m in chosen if m.source == source and known.get(m.name) in ("noticed", "survived")]
        survived = [mutant for mutant in tested if known[mutant.name] == "survived"]
        unseen = [mutant for mutant in survived if mutant.name in explained]
        if tested:
            rows.append((source, len(tested), len(tested) - len(survived), len(unseen), len(survived) - len(unseen)))
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, 5))))
    for source, total, noticed, unseen, survived in rows:
        share = f"{100 * noticed / (total - unseen):.1f} %" if total > unseen else ""
        lines.append(f"| {source} | {total} | {noticed} | {unseen} | {survived} | {share} |")
    lines += ["", "| survivor | why |", "|---|---|"]
    for mutant in chosen:
        if known.get(mutant.name) == "survived":
            why = explained.get(mutant.name, f"**not noticed** (line {mutant.line})")
            lines.append(f"| {mutant.name.replace('|', chr(92) + '|')} | {why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
