#!/usr/bin/env python
"""Shows, for each class, which learned contexts the masks of a trained MTA-CLIP chose on a dataset.

python tools/analyze_contexts.py --config-file configs/shapes/mta_clip_tiny.yaml \\
    --weights output/demo/model_final.pth --output output/demo/contexts

Prints a table: masks, share of each context, entropy of these shares (1 = all alike, 0 = one takes all) and mean cosine
between the contexts' texts (1 = twins; the line below has that of different classes). Writes to --output: contexts.csv
(masks and pixels per class and context), contexts.png (shares as bars), examples/*.png (the largest masks per class and
context).
"""

import argparse
import itertools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from mta_clip.analysis.context_report import draw_usage, format_usage, save_examples, write_usage
from mta_clip.analysis.contexts import analyze_contexts, mean_cosines
from mta_clip.config_loader import load_config
from mta_clip.data import build_test_loader, register_folders
from mta_clip.predictor import build_trained_model


def argument_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="config of the model (YAML)")
    parser.add_argument("--weights", help="checkpoint; short for MODEL.WEIGHTS")
    parser.add_argument("--dataset", help="registered dataset; default: the first of DATASETS.TEST")
    parser.add_argument("--output", required=True, type=Path, help="folder for the table and the pictures")
    parser.add_argument("--max-images", type=int, help="stop after this number of images")
    parser.add_argument("--examples", type=int, default=4, help="crops per class and context")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that override the config")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command.

    Raises:
        ValueError: no dataset is named; see also `build_trained_model` and `analyze_contexts`.
    """
    args = argument_parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    cfg = load_config(args.config_file, args.opts)
    if args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    if not args.dataset and not cfg.DATASETS.TEST:
        raise ValueError("name a dataset with --dataset, or set DATASETS.TEST")
    register_folders(cfg)
    model, cfg = build_trained_model(cfg)
    class_names = cfg.MODEL.PROMPT.CLASS_NAMES
    loader = build_test_loader(cfg, args.dataset or cfg.DATASETS.TEST[0])
    total = min(len(loader), args.max_images or len(loader))
    progress = tqdm(itertools.islice(loader, total), total=total, unit="image", disable=None)
    usage = analyze_contexts(model, progress, max_examples=args.examples)
    with torch.no_grad():
        text = model.prompt_learner()[:, :-1]
    print(format_usage(usage, class_names, mean_cosines(text).tolist()))
    print(f"for comparison, mean cosine between classes: {mean_cosines(text.transpose(0, 1)).mean():.3f}")
    write_usage(args.output / "contexts.csv", usage, class_names)
    draw_usage(args.output / "contexts.png", usage, class_names)
    save_examples(args.output / "examples", usage, class_names)
    print(f"{usage.images} images; table and pictures are in {args.output}")


if __name__ == "__main__":
    main()
