#!/usr/bin/env python
"""Tests whether class names work by their meaning: evaluates a model on shapes by its training names and by synonyms.

    python tools/pretrain_tiny_clip.py --synonyms --output output/tiny_clip/synonyms.pth
    python train_net.py --config-file configs/shapes/mta_clip_synonyms.yaml OUTPUT_DIR output/synonyms
    python tools/synonym_benchmark.py MODEL.WEIGHTS output/synonyms/model_final.pth

The text tower has seen the synonyms (mta_clip/data/datasets/shapes.py) in captions; segmentation has not. Prints mIoU
for each list of names. In the last list every synonym counts as another class, so mIoU is near 0 if meaning decides.
"""

import argparse
import sys
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from mta_clip.config_loader import load_config
from mta_clip.data import register_folders
from mta_clip.data.datasets.shapes import synonym_of
from mta_clip.engine.evaluate import evaluate, mean_iou
from mta_clip.predictor import build_trained_model


class Renamed(nn.Module):
    """Looks for other names with a model, and returns the labels of the classes that the names stand for.

    Args:
        model: with `set_vocabulary`.
        names: to look for.
        meant: index of the class that each name stands for.

    Raises:
        ValueError: the model refuses a name.
    """

    def __init__(self, model: nn.Module, names: list[str], meant: list[int]) -> None:
        super().__init__()
        model.set_vocabulary(names)
        self.model = model
        self.register_buffer("meant", torch.tensor(meant))

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        return [
            {"labels": self.meant.to(x["sem_seg"].device)[x["sem_seg"].argmax(0)]} for x in self.model(batched_inputs)
        ]


def vocabularies(names: list[str]) -> Iterator[tuple[str, list[str], list[int]]]:
    """Yields what is compared: a title, names, and the class that each name stands for."""
    classes = list(range(len(names)))
    synonyms = [synonym_of(name) for name in names]
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    yield "training names", names, classes
    yield "synonyms", synonyms, classes
    yield "synonyms, reordered", [synonyms[i] for i in order], order
    yield "synonyms, each taken for the next class", synonyms, [*classes[1:], 0]


def compare(cfg: CfgNode, model: nn.Module, names: list[str]) -> dict[str, float]:
    """mIoU (percent) by title, the trained classifier of the config first."""
    results = {f"{cfg.MODEL.MTA.CLASSIFIER} classifier": mean_iou(evaluate(cfg, model))}
    for title, vocabulary, meant in vocabularies(names):
        results[title] = mean_iou(evaluate(cfg, Renamed(model, vocabulary, meant)))
    model.set_vocabulary(None)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/shapes/mta_clip_synonyms.yaml")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that override the config")
    args = parser.parse_args()
    cfg = load_config(args.config_file, args.opts)
    register_folders(cfg)
    model, cfg = build_trained_model(cfg)
    for title, value in compare(cfg, model, cfg.MODEL.PROMPT.CLASS_NAMES).items():
        print(f"{title:<42}{value:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
