"""Draws how time and memory grow, from the JSON files of `tools/benchmark.py --sweep`: one PNG per varied setting.

python tools/performance_plots.py output/performance/sweep_*.json --output docs/performance
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LABELS = {"size": "image side, pixels", "batch": "images", "classes": "classes", "contexts": "contexts per class"}


def swept_setting(report: list[dict]) -> str:
    """The one setting in which the entries of a report differ.

    Raises:
        ValueError: no setting differs, or several do.
    """
    first = report[0]["settings"]
    names = [name for name in first if len({entry["settings"][name] for entry in report}) > 1]
    if len(names) != 1:
        raise ValueError(
            f"not a sweep over one setting: {names or 'no setting'} differ; see tools/benchmark.py --sweep"
        )
    return names[0]


def draw(report: list[dict], path: Path) -> None:
    """Plots time and peak memory over the varied setting; with one peer, times are stacked by stage."""
    name = swept_setting(report)
    values = [entry["settings"][name] for entry in report]
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for index, peer in enumerate(result["peer"] for result in report[0]["results"]):
        results = [entry["results"][index] for entry in report]
        if len(report[0]["results"]) == 1:
            stages = {stage: [result["stages"][stage] for result in results] for stage in results[0]["stages"]}
            time.stackplot(values, stages.values(), labels=stages, alpha=0.6)
        time.plot(values, [result["seconds"]["median"] for result in results], "o-", label=peer)
        memory.plot(values, [result["peak_memory_mib"] for result in results], "o-", label=peer)
    settings = report[0]["settings"]
    fixed = ", ".join(f"{k} {v}" for k, v in settings.items() if k in LABELS and k != name)
    figure.suptitle(f"{fixed}; {settings['device']}, {settings['threads']} thread(s), {settings['clock']} time", size=9)
    time.set(xlabel=LABELS[name], ylabel="seconds", ylim=(0, None))
    memory.set(xlabel=LABELS[name], ylabel="peak memory, MiB", ylim=(0, None))
    time.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+", help="JSON files of tools/benchmark.py --sweep")
    parser.add_argument("--output", type=Path, default=Path("docs/performance"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for source in args.reports:
        report = json.loads(source.read_text())
        target = args.output / f"{swept_setting(report)}.png"
        draw(report, target)
        print(f"{source} -> {target}")


if __name__ == "__main__":
    main()
