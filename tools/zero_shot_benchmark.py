#!/usr/bin/env python
"""Measures the effect of the trusty map: seen, unseen and harmonic mIoU of TagCLIP with and without it.

    python tools/pretrain_tiny_clip.py --output output/tiny_clip/mta-tiny-vit.pth
    python tools/zero_shot_benchmark.py --seeds 1 2 3 --output output/zero_shot

For each seed, trains the config once with a trusty token and once without, and evaluates the former with and without
its map. Writes results.json and prints a table. Runs whose results are in the output folder are not repeated.
"""

import argparse
import json
import logging
import statistics
import sys
from pathlib import Path

from mta_clip.config_loader import load_config
from mta_clip.engine.evaluate import evaluate
from mta_clip.engine.setup import setup
from mta_clip.engine.trainer import Trainer

METRICS = ("mIoU_seen", "mIoU_unseen", "hIoU", "pACC")
# name -> (trusty token in training, weighting at inference)
VARIANTS = {
    "no trusty token": (False, "none"),
    "trusty token, map unused": (True, "none"),
    "trusty token, map weights unseen": (True, "unseen"),
    "trusty token, map weights both": (True, "both"),
}


def run(config_file: str, seed: int, token: bool, folder: Path, overrides: list[str]) -> dict[str, dict[str, float]]:
    """Trains one model and evaluates it in every variant that fits: {variant: {metric: percent}}."""
    done = folder / "variants.json"
    if done.is_file():
        return json.loads(done.read_text())
    first = next(weighting for has_token, weighting in VARIANTS.values() if has_token == token)
    options = ["SEED", seed, "OUTPUT_DIR", folder, "DATASETS.TEST", "()"]
    options += ["MODEL.TAGCLIP.TRUSTY_TOKEN", token, "MODEL.TAGCLIP.TRUSTY_EVAL", first]
    cfg = setup(load_config(config_file, [*overrides, *map(str, options)]), training=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = load_config(config_file, overrides).DATASETS.TEST
    results = {}
    for variant, (has_token, weighting) in VARIANTS.items():
        if has_token == token:
            trainer.model.trusty_eval = weighting
            metrics = evaluate(cfg, trainer.model, subfolder=weighting)["sem_seg"]
            results[variant] = {name: metrics[name] for name in METRICS}
    done.write_text(json.dumps(results, indent=2))
    return results


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """A Markdown table with the mean and, for several seeds, the standard deviation of every metric."""
    rows = [f"| variant | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 1) + "|"]
    for variant, runs in results.items():
        cells = []
        for name in METRICS:
            values = [metrics[name] for metrics in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        rows.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/shapes/tagclip_inductive.yaml")
    parser.add_argument("--output", type=Path, default=Path("output/zero_shot"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides of the config, after --")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for seed in args.seeds:
        for token in (True, False):
            folder = args.output / f"seed{seed}_{'trusty' if token else 'plain'}"
            for variant, metrics in run(args.config_file, seed, token, folder, args.opts).items():
                results[variant].append(metrics)
    (args.output / "results.json").write_text(json.dumps(results, indent=2))
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
