#!/usr/bin/env python
"""Trains a tiny model for thousands of iterations, and watches what must not grow: `make soak`.

    python tools/reliability/soak.py --output output/reliability/soak
    python tools/reliability/soak.py --iterations 20000 --config-file my.yaml -- MODEL.DEVICE cuda

Every tenth iteration it notes the memory of the process and of its loader workers, the number of workers, of open files
and of threads; OUTPUT/soak.csv has the numbers and OUTPUT/soak.png draws them. After the first fifth, memory may grow
by 10 MB at most, and the numbers not at all. Then shorter runs have to end with the same weights, to the last bit: two
with the same seed, and one with another number of loader workers.
"""

import argparse
import csv
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from kill_jobs import tiny_options, write_photos  # isort: skip  (finds mta_clip)
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from kill_evidence import digest
from matplotlib.figure import Figure

from mta_clip.config_loader import load_config
from mta_clip.data.own_folder import own_config
from mta_clip.engine.setup import setup
from mta_clip.engine.trainer import Trainer

EVERY = 10  # iterations
MOST_MB = 10.0  # of growth
NAMES = ("iteration", "memory_mb", "workers_mb", "workers", "open_files", "threads")


class Watch(HookBase):
    """Notes the numbers of NAMES every tenth iteration."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []

    def after_step(self) -> None:
        if self.trainer.iter % EVERY:
            return
        workers = [int(path.name) for path in Path("/proc").glob("[0-9]*") if parent_of(path) == os.getpid()]
        own = Path("/proc/self")
        numbers = (len(workers), len(os.listdir(own / "fd")), len(os.listdir(own / "task")))
        self.rows.append((self.trainer.iter, memory(os.getpid()), sum(map(memory, workers)), *numbers))


def parent_of(process: Path) -> int:
    """The parent of a process; 0 if it has ended."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def memory(pid: int) -> float:
    """Resident memory of a process that is its own, MB."""
    resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20


def train(cfg: CfgNode, folder: Path, *, workers: int, iterations: int) -> tuple[list[tuple[float, ...]], str]:
    """A whole run: what the watch has noted, and the digest of the last checkpoint."""
    cfg = cfg.clone()
    cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.MAX_ITER = str(folder), workers, iterations
    shutil.rmtree(folder, ignore_errors=True)
    trainer = Trainer(setup(cfg, training=True))
    watch = Watch()
    trainer.register_hooks([watch])
    trainer.resume_or_load(resume=False)
    trainer.train()
    weights = torch.load(folder / "model_final.pth", weights_only=True)["model"]
    torch.save({name: value.contiguous() for name, value in weights.items()}, folder / "weights.pth")
    return watch.rows, digest(folder / "weights.pth")


def growth(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    """How much each number has grown: means of the last fifth less those of the second."""
    fifth = len(rows) // 5
    early, late = ([*zip(*part, strict=True)] for part in (rows[fifth : 2 * fifth], rows[-fifth:]))
    return {name: sum(late[index]) / fifth - sum(early[index]) / fifth for index, name in enumerate(NAMES) if index}


def draw(rows: Sequence[Sequence[float]], path: Path) -> None:
    """Memory above, numbers below."""
    figure = Figure(figsize=(7, 5), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    columns = dict(zip(NAMES, zip(*rows, strict=True), strict=True))
    for axes, names in ((upper, NAMES[1:3]), (lower, NAMES[3:])):
        for name in names:
            axes.plot(columns["iteration"], columns[name], label=name.replace("_mb", ", MB").replace("_", " "))
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    lower.set_xlabel("iteration")
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=200, help="iterations of the runs that are compared (200)")
    parser.add_argument("--workers", type=int, default=2, help="of the loader (2)")
    parser.add_argument("--config-file", help="another model and dataset than the tiny ones")
    parser.add_argument("--output", type=Path, default=Path("output/reliability/soak"))
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides, after --")
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    if args.config_file:
        cfg = load_config(args.config_file, args.opts)
    else:
        write_photos(args.output / "photos")
        options = [*tiny_options(args.output / "photos")[2:], "SOLVER.LOG_PERIOD", "20", "TEST.EVAL_PERIOD", "500"]
        cfg = load_config("own/small", [*options, "SOLVER.CHECKPOINT_PERIOD", "500", *args.opts])
        cfg = own_config(cfg, data=args.output / "photos")
    rows, _ = train(cfg, args.output / "run", workers=args.workers, iterations=args.iterations)
    with (args.output / "soak.csv").open("w", newline="") as file:
        csv.writer(file).writerows([NAMES, *rows])
    draw(rows, args.output / "soak.png")
    grown = growth(rows)
    print(", ".join(f"{name} {rows[-1][index + 1]:.1f} ({grown[name]:+.1f})" for index, name in enumerate(grown)))
    flat = all(value < (MOST_MB if name.endswith("mb") else 0.5) for name, value in grown.items())
    print(f"{args.iterations} iterations: {'flat' if flat else 'GROWS'}")
    ends = {
        (workers, attempt): train(cfg, args.output / "repeat", workers=workers, iterations=args.repeat)[1]
        for workers, attempt in ((args.workers, 1), (args.workers, 2), (0, 1))
    }
    equal = len(set(ends.values())) == 1
    print(
        f"{args.repeat} iterations, workers {args.workers}, {args.workers} and 0: {'equal' if equal else 'DIFFERENT'}"
    )
    return int(not (flat and equal))


if __name__ == "__main__":
    sys.exit(main())
