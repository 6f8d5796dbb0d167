#!/usr/bin/env python
"""Tests whether class names work by their meaning: evaluates a trained model by its names, by synonyms, among others.

    python tools/synonym_benchmark.py --config-file output/camvid/mta_clip_lite2_imagenet \\
        --synonyms tools/synonyms/camvid.yaml --distractors ade20k --output output/camvid_words

Every list of names is evaluated like a dataset with other classes (docs/open_vocabulary.md, "Other class lists"):

- classifier of the config: the model as it was trained; left out if it is linear and the dataset has other classes;
- own names: the dataset's names, compared as text;
- synonyms: other words for the same classes;
- synonyms, each taken for the next class: the control; near 0 if meaning decides;
- own names and distractors: with a longer list beside them. A distractor's pixels count as missed.

--synonyms is a YAML file, {class: synonym, or a list of them: the first is tested, and none is a distractor}.
--distractors is a class list of mta_clip/data/class_names, or a file with one name per line. Names that the model was
not trained with (DATASETS.UNSEEN_CLASSES, or another dataset's) have means of their own. Percentages go to
words.json and words.md in --output.
"""

import mta_clip  # noqa: F401  # isort: skip  (before detectron2, which it makes importable)

import argparse
import json
import logging
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from mta_clip.cli.options import add_config_options, add_weights_option, parse, trained_config
from mta_clip.data import has_other_classes, register_folders, unseen_classes
from mta_clip.data.classes import builtin_classes, read_classes
from mta_clip.data.synonyms import SEPARATOR, find_classes
from mta_clip.engine.evaluate import evaluate
from mta_clip.predictor import build_trained_model

# {metric: {class: percent, or None if it is absent}}; metrics are IoU and, if measured, BoundaryIoU
Scores = dict[str, dict[str, float | None]]


def read_synonyms(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """The synonyms of each class, in the order of the classes.

    Raises:
        ValueError: the file is no such mapping, or lacks a class, or has one that the dataset has not.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of classes to synonyms, got {type(content).__name__}")
    lacking, unknown = [n for n in names if not content.get(n)], [n for n in content if n not in names]
    if lacking or unknown:
        raise ValueError(f"{path}: no synonym for {lacking}; no classes of the dataset: {unknown}")
    return {name: [content[name]] if isinstance(content[name], str) else list(content[name]) for name in names}


def read_distractors(source: str, names: Sequence[str], synonyms: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of a class list that no class and no synonym is called.

    Raises:
        FileNotFoundError, ValueError: see `read_classes`.
    """
    longer = read_classes(source) if Path(source).is_file() else builtin_classes(source)
    known = [SEPARATOR.join([name, *synonyms.get(name, ())]) for name in names]
    return [name for name, found in zip(longer.names, find_classes(longer.names, known), strict=True) if found < 0]


def renamed(dataset: str, title: str, names: Sequence[str]) -> str:
    """Registers a dataset again, with other names for its classes and perhaps more of them; returns its name."""
    metadata = MetadataCatalog.get(dataset).as_dict()
    entries = {key: value for key, value in metadata.items() if key not in ("name", "stuff_classes", "stuff_colors")}
    new = f"{dataset} by {title}"
    for catalog in (DatasetCatalog, MetadataCatalog):
        if new in catalog.list():
            catalog.pop(new)
    DatasetCatalog.register(new, lambda: DatasetCatalog.get(dataset))
    MetadataCatalog.get(new).set(stuff_classes=list(names), **entries)
    return new


def measure(cfg: CfgNode, model: nn.Module, dataset: str, classes: Sequence[str], meant: Sequence[str]) -> Scores:
    """Scores by class.

    Args:
        dataset: registered.
        classes: to report, for each the name in the dataset that stands for it in `meant`.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (dataset,)
    results = evaluate(cfg, model, subfolder=dataset)["sem_seg"]
    present = [metric for metric in ("IoU", "BoundaryIoU") if f"{metric}-{meant[0]}" in results]
    values = {name: None if math.isnan(value) else value for name, value in results.items()}
    return {
        metric: {name: values[f"{metric}-{word}"] for name, word in zip(classes, meant, strict=True)}
        for metric in present
    }


def compare(
    cfg: CfgNode,
    model: nn.Module,
    dataset: str,
    synonyms: Mapping[str, Sequence[str]] | None = None,
    distractors: Sequence[str] = (),
) -> dict[str, Scores]:
    """Scores by title of the list of names, those of the config's own classifier first, if it has the classes.

    Args:
        cfg, model: from `build_trained_model`.
        dataset: registered.
        synonyms: of each of its classes; None: not tested.
        distractors: further names; none: not tested.

    Raises:
        ValueError: the model does not compare masks with text; see also `evaluate`.
    """
    names = list(MetadataCatalog.get(dataset).stuff_classes)
    classifier, results = cfg.MODEL.MTA.CLASSIFIER, {}
    if classifier != "linear" or not has_other_classes(cfg, names):
        results[f"{classifier} classifier"] = measure(cfg, model, dataset, names, names)
    lists = {"own names": names}
    if synonyms:
        words = [synonyms[name][0] for name in names]
        lists |= {"synonyms": words, "synonyms, each taken for the next class": [*words[1:], words[0]]}
    if distractors:
        lists[f"own names and {len(distractors)} distractors"] = [*names, *distractors]
    for title, words in lists.items():
        model.set_vocabulary(words)
        results[title] = measure(cfg, model, renamed(dataset, title, words), names, words[: len(names)])
    model.set_vocabulary(None)
    return results


def mean_or_dash(values: Iterable[float | None]) -> str:
    """Mean of the classes that are present."""
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.2f}" if known else "-"


def summary(results: Mapping[str, Scores], unseen: Sequence[str]) -> str:
    """Two Markdown tables: means, also over unseen classes if there are any, and the IoU of each class."""
    names = list(next(iter(results.values()))["IoU"])
    columns = {"mIoU": ("IoU", names), "boundary mIoU": ("BoundaryIoU", names)}
    if unseen:
        columns["mIoU, seen"] = ("IoU", [name for name in names if name not in unseen])
        columns["mIoU, unseen"] = ("IoU", list(unseen))
    columns = {title: column for title, column in columns.items() if column[0] in next(iter(results.values()))}
    means = [
        [title, *(mean_or_dash(scores[metric][name] for name in of) for metric, of in columns.values())]
        for title, scores in results.items()
    ]
    each = [[title, *(mean_or_dash([scores["IoU"][name]]) for name in names)] for title, scores in results.items()]
    lines = [["names", *columns], ["---"] * (len(columns) + 1), *means]
    lines += [[], ["IoU", *names], ["---"] * (len(names) + 1), *each]
    return "\n".join(f"| {' | '.join(line)} |" if line else "" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Raises:
        ValueError: no dataset is named; see also `read_synonyms`, `trained_config` and `compare`.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(parser)
    add_weights_option(parser)
    parser.add_argument("--dataset", help="registered dataset; default: the first of DATASETS.TEST")
    parser.add_argument("--synonyms", type=Path, metavar="FILE", help="other words for its classes (YAML)")
    parser.add_argument("--distractors", metavar="LIST", help="class list, such as ade20k, or a file")
    parser.add_argument("--output", required=True, type=Path, help="folder for words.json, words.md and reports")
    args = parse(parser, arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    cfg = trained_config(args)
    if not args.dataset and not cfg.DATASETS.TEST:
        raise ValueError("name a dataset with --dataset, or set DATASETS.TEST")
    cfg.OUTPUT_DIR = str(args.output)
    register_folders(cfg)
    dataset = args.dataset or cfg.DATASETS.TEST[0]
    names = list(MetadataCatalog.get(dataset).stuff_classes)
    synonyms = read_synonyms(args.synonyms, names) if args.synonyms else {}
    distractors = read_distractors(args.distractors, names, synonyms) if args.distractors else []
    model, cfg = build_trained_model(cfg)
    results = compare(cfg, model, dataset, synonyms, distractors)
    unseen = unseen_classes(cfg, names)
    tables = summary(results, unseen)
    args.output.mkdir(parents=True, exist_ok=True)
    about = {"weights": cfg.MODEL.WEIGHTS, "dataset": dataset, "unseen": unseen, "distractors": distractors}
    content = json.dumps({**about, "synonyms": synonyms, "results": results}, indent=2, ensure_ascii=False)
    (args.output / "words.json").write_text(content + "\n", encoding="utf-8")
    (args.output / "words.md").write_text(tables + "\n", encoding="utf-8")
    print(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
