"""Times models (peers) side by side, each in its own process, in rounds; gives medians, stage times and peak memory.

    python tools/benchmark.py                                     # inference, 512x512, fp32, all peers
    python tools/benchmark.py --dtype bfloat16 --peers mask2former-r50 mta-clip-rn50 mask2former-r50:float32
    python tools/benchmark.py --peers mta-clip-rn50 mta-clip-rn50:bfloat16 mta-clip-rn50:bfloat16:compile
    python tools/benchmark.py --mode train --batch 2 --peers mta-clip-rn50-plain mta-clip-rn50
    python tools/benchmark.py --peers mta-clip-rn50 mta-clip-rn50-sliding         # one image; per window of 1024x2048
    python tools/benchmark.py --peers mta-clip-rn50-photo mta-clip-tiny-photo     # one image of 512x683, as evaluated
    python tools/benchmark.py --neighbour 1                       # with another process busy on one core
    python tools/benchmark.py --sweep size --values 256 512 1024 2048 --peers mta-clip-rn50
    python tools/benchmark.py --official ../Mask2Former           # also the official Mask2Former, from a checkout
    python tools/benchmark.py --device cuda --batch 8             # on a GPU; gpu_campaign.py measures all there is

On a shared machine, only ratios between peers of one run mean anything. If other processes use the cores meanwhile,
`--threads 1 --clock cpu` counts only the time that the process itself computed. Weights are random, as time does not
depend on them.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# The official Mask2Former cannot be installed by pip; transformers' is the peer that everyone can run.
OFFICIAL, TRANSFORMERS = "official-mask2former-r50", "transformers-mask2former-r50"
DTYPES = ("float32", "tf32", "bfloat16", "float16")  # tf32: float32 with TensorFloat-32 in products, on GPUs
SETTINGS = ("mode", "device", "size", "batch", "classes", "contexts", "threads", "clock", "neighbour")


class Worker:
    """Runs one peer in a process of its own, which answers each request for a round with one line of JSON.

    Args:
        peer: NAME[:DTYPE][:compile].
        args: of the command.

    Raises:
        ValueError: see `split_peer`.
        RuntimeError: the process ended.
    """

    def __init__(self, peer: str, args: argparse.Namespace):
        self.peer = peer
        name, dtype, compiled = split_peer(peer)
        command = [sys.executable, str(Path(__file__).with_name("benchmark_worker.py")), name, args.mode]
        for option in ("device", "clock", "size", "batch", "threads", "classes", "contexts"):
            command += [f"--{option}", str(getattr(args, option))]
        command += ["--dtype", dtype or args.dtype, *(["--compile"] if compiled else [])]
        command += ["--official", str(args.official)] if args.official else []
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = self._answer()
        self.rounds: list[dict] = []

    def run_round(self, **settings: object) -> None:
        """Runs the peer once and keeps its times.

        Args:
            settings: changes from this round on: dtype, size, batch.

        Raises:
            RuntimeError: the process ended.
        """
        self.about |= settings
        self.process.stdin.write(json.dumps(settings) + "\n")
        self.process.stdin.flush()
        self.rounds.append(self._answer())

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the process of {self.peer} ended with status {self.process.wait()}; see its error message above"
            )
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()

    def summary(self) -> dict:
        """Medians over rounds, in seconds and MiB."""
        totals = [sum(stages["stages"].values()) for stages in self.rounds]
        names = self.rounds[0]["stages"]
        return {
            "peer": self.peer,
            **self.about,
            "seconds": {
                "median": statistics.median(totals),
                "min": min(totals),
                "max": max(totals),
            },
            "stages": {name: statistics.median(r["stages"][name] for r in self.rounds) for name in names},
            "peak_memory_mib": self.rounds[-1]["peak_memory_mib"],
        }


def split_peer(peer: str) -> tuple[str, str, bool]:
    """Splits NAME[:DTYPE][:compile].

    Returns:
        The name, the data type ("" if not given), and whether the networks are compiled.

    Raises:
        ValueError: another form, or an unknown data type.
    """
    name, *settings = peer.split(":")
    compiled = "compile" in settings
    dtypes = [setting for setting in settings if setting != "compile"]
    if len(dtypes) > 1 or not set(dtypes) <= set(DTYPES):
        raise ValueError(f"peer {peer!r}: expected NAME[:DTYPE][:compile], with DTYPE one of {', '.join(DTYPES)}")
    return name, "".join(dtypes), compiled


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keeps this number of cores busy with other processes while the block runs."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(args: argparse.Namespace) -> list[dict]:
    """Runs all peers in turn, round by round, and returns their summaries.

    Raises:
        ValueError, RuntimeError: see `Worker`.
    """
    workers = []
    try:
        for peer in args.peers:
            workers.append(Worker(peer, args))
        with neighbours(args.neighbour):
            for round_index in range(args.rounds + 1):  # the first round warms up
                for worker in workers:
                    worker.run_round()
                print(f"\rround {round_index}/{args.rounds}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        for worker in workers:
            del worker.rounds[0]
        return [worker.summary() for worker in workers]
    finally:
        for worker in workers:
            worker.close()


def table(results: list[dict]) -> str:
    """One row per peer: time, ratios to the first peer and to other projects' models, stages, memory."""
    times = {r["peer"]: r["seconds"] for r in results}
    first = results[0]["peer"]
    others = {"/ transformers": TRANSFORMERS, "/ official": OFFICIAL}
    rows = []
    for r in results:
        seconds = r["seconds"]
        row = {
            "peer": r["peer"],
            "median s": f"{seconds['median']:.3f}",
            "min..max": f"{seconds['min']:.3f}..{seconds['max']:.3f}",
            f"/ {first}": ratio(seconds, times[first]),
        }
        row |= {heading: ratio(seconds, times[peer]) for heading, peer in others.items() if peer in times}
        row["images/s"] = f"{throughput(r):.3g}"
        row["stages, s"] = "  ".join(f"{name} {value:.3f}" for name, value in r["stages"].items())
        row["peak MiB"] = f"{r['peak_memory_mib']:.0f}"
        row["of it for the run"] = f"{r['peak_memory_mib'] - r['start_memory_mib']:.0f}"
        rows.append(row)
    text = tabulate.tabulate(rows, headers="keys", tablefmt="github")
    return text + "\nratios: of medians (of the fastest rounds, which other programs disturb least)"


def compare_with_official(args: argparse.Namespace) -> dict[str, float]:
    """Scores of our Mask2Former against the official one's, with the same weights: see official_mask2former.py.

    Raises:
        CalledProcessError: the comparison failed; its process has said why.
    """
    command = [sys.executable, str(Path(__file__).with_name("official_mask2former.py")), str(args.official)]
    for option in ("size", "classes", "threads"):
        command += [f"--{option}", str(getattr(args, option))]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def throughput(result: dict) -> float:
    """Images per second; of windows, windows."""
    single = result["peer"].split(":")[0].endswith(("-photo", "-sliding"))  # whatever the batch
    return (1 if single else result["batch"]) / result["seconds"]["median"]


def ratio(seconds: dict, others: dict) -> str:
    """The ratio of the medians, and in brackets that of the fastest rounds."""
    return f"{seconds['median'] / others['median']:.2f} ({seconds['min'] / others['min']:.2f})"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers",
        nargs="+",
        default=[TRANSFORMERS, "mask2former-r50", "mta-clip-rn50"],
        help="NAME[:DTYPE][:compile]; the first round of a compiled peer takes a minute or more",
    )
    parser.add_argument("--mode", choices=["infer", "train"], default="infer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="data type of peers that name none")
    parser.add_argument("--size", type=int, default=512, help="image side, pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--contexts", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: only with --threads 1")
    parser.add_argument(
        "--neighbour", type=int, default=0, metavar="N", help="cores that other processes keep busy at the same time"
    )
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, after one to warm up")
    parser.add_argument("--sweep", choices=["size", "batch", "classes", "contexts"], help="option to vary")
    parser.add_argument("--values", type=int, nargs="+", help="values of the --sweep option")
    parser.add_argument(
        "--official", type=Path, metavar="PATH", help="checkout of the official Mask2Former, added as a peer"
    )
    parser.add_argument("--json", type=Path, default=Path("output/benchmark.json"))
    args = parser.parse_args()
    if bool(args.sweep) != bool(args.values):
        parser.error("--sweep and --values need each other")
    if args.clock == "cpu" and (args.threads != 1 or args.device != "cpu"):
        parser.error(
            "--clock cpu adds up the time of threads and does not count other devices: use --threads 1 --device cpu"
        )
    if args.official:
        add_official(args, parser)
    return args


def add_official(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Adds the official model to the peers; a wrong path or mode ends the command."""
    from official_mask2former import require_checkout

    try:
        require_checkout(args.official)
    except FileNotFoundError as error:
        parser.error(str(error))
    if args.mode != "infer":
        parser.error("--official measures inference only")
    args.peers = [*args.peers, *([] if OFFICIAL in args.peers else [OFFICIAL])]


def main() -> None:
    args = parse_arguments()
    report, comparison = [], {}
    if args.official:
        comparison = compare_with_official(args)
        print("our Mask2Former against the official one, same weights: ", end="")
        print("scores up to {largest_score:.3g}, largest difference {largest_difference:.2g}".format(**comparison))
    for value in args.values or [None]:
        if args.sweep:
            setattr(args, args.sweep, value)
        settings = {k: getattr(args, k) for k in SETTINGS}
        print(", ".join(f"{k} {v}" for k, v in settings.items()), f"default dtype {args.dtype}", sep=", ")
        results = measure(args)
        print(table(results), "\n")
        report.append({"settings": settings | comparison, "results": results})
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=1))
    print(f"written to {args.json}")


if __name__ == "__main__":
    main()
