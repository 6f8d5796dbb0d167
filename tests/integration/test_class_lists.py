"""A tiny MTA-CLIP, trained here in seconds, evaluated in one run on datasets with different lists of classes.

All of them have the same images. Numbers follow the names of the classes, not their positions.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from PIL import Image
from tiny_models import NAMES, batch, tiny_config

from mta_clip.data import register_folders
from mta_clip.engine.evaluate import Results, evaluate
from mta_clip.engine.launch import launch
from mta_clip.engine.trained_model import build_for_evaluation, load_for_evaluation
from mta_clip.engine.trainer import Trainer

SKY, CAR, TREE, HOUSE = NAMES
LISTS = {
    "own": [SKY, CAR, TREE, HOUSE],
    "reordered": [TREE, SKY, HOUSE, CAR],
    "renamed": [HOUSE, "auto; Red Car", TREE, SKY],
    "extended": ["violin", CAR, TREE, "plate of soup", HOUSE, SKY],
}
SIDE, TRAIN, VAL = 64, 12, 5
STEPS = 100
MARGIN = 3.0  # points of IoU between text that the decoder has updated and text that it has not


def draw(folder: Path, classes: list[str], samples: list[dict]) -> None:
    """Images and label maps, whose values are positions in the list of classes."""
    own = [next(i for i, name in enumerate(classes) if called.lower() in name.lower()) for called in NAMES]
    values = np.array([*own, *[255] * (256 - len(own))], np.uint8)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index, sample in enumerate(samples):
        Image.fromarray(sample["image"].permute(1, 2, 0).numpy()).save(folder / "images" / f"{index}.png")
        Image.fromarray(values[sample["sem_seg"].numpy()]).save(folder / "labels" / f"{index}.png")


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    """Of a trained model; `TEST` has all lists."""
    root = tmp_path_factory.mktemp("class_lists")
    entries = []
    for name, classes in {"train": NAMES, **LISTS}.items():
        train = name == "train"
        draw(root / name, classes, batch(TRAIN if train else VAL, (SIDE, SIDE), seed=1 if train else 2))
        folders = {f"{kind[:-1]}_dir": str(root / name / kind) for kind in ("images", "labels")}
        entries.append({"name": f"lists_{name}", "classes": list(classes), **folders})
    cfg = tiny_config("OUTPUT_DIR", str(root / "run"), "SEED", 1)
    cfg.DATASETS.FOLDERS, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = entries, ("lists_train",), ()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.CROP.ENABLED = (SIDE,), SIDE, False
    cfg.INPUT.COLOR_AUG_SSD = False
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR = 4, STEPS, 0.002
    cfg.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0, 1.0
    cfg.DATALOADER.NUM_WORKERS = 0
    register_folders(cfg)
    seed_all_rng(cfg.SEED)
    Trainer(cfg).train()
    cfg.MODEL.WEIGHTS = str(root / "run" / "model_final.pth")
    cfg.DATASETS.TEST = tuple(f"lists_{name}" for name in LISTS)
    yield cfg
    for entry in entries:
        DatasetCatalog.pop(entry["name"]), MetadataCatalog.pop(entry["name"])


def evaluated(cfg: CfgNode, *overrides) -> dict[str, dict[str, float]]:
    """Metrics in percent by list, of the trained model with other settings."""
    cfg = cfg.clone()
    cfg.merge_from_list(list(overrides))
    return by_list(evaluate(cfg, build_for_evaluation(cfg)))


def by_list(results: Results) -> dict[str, dict[str, float]]:
    return {name.removeprefix("lists_"): result["sem_seg"] for name, result in results.items()}


def ious(metrics: dict[str, float]) -> dict[str, float]:
    """IoU of the classes of the training, by their names there."""
    found = {key.removeprefix("IoU-").lower(): value for key, value in metrics.items() if key.startswith("IoU-")}
    return {name: next(value for called, value in found.items() if name in called) for name in NAMES}


@pytest.fixture(scope="module")
def ensemble(cfg):
    """Metrics by list."""
    return evaluated(cfg, "MODEL.MTA.CLASSIFIER", "ensemble")


def assert_names_are_followed(results: dict[str, dict[str, float]]) -> None:
    expected = ious(results["own"])
    assert min(expected.values()) > 80
    for name in LISTS:
        assert ious(results[name]) == pytest.approx(expected, abs=MARGIN), name
    assert results["extended"]["mIoU_seen"] == pytest.approx(results["extended"]["mIoU"])  # the others have no pixel
    assert not any("mIoU_seen" in results[name] for name in ("own", "reordered", "renamed"))


def test_the_ensemble_follows_names(ensemble, cfg):
    assert_names_are_followed(ensemble)
    with (Path(cfg.OUTPUT_DIR) / "lists_extended" / "per_class.csv").open() as file:
        split = {row["class"]: row["split"] for row in csv.DictReader(file)}
    assert [name for name, kind in split.items() if kind == "unseen"] == ["violin", "plate of soup"]


def test_text_follows_names(cfg):
    assert_names_are_followed(evaluated(cfg, "MODEL.MTA.CLASSIFIER", "text"))


def test_the_frozen_clip_follows_names_in_bfloat16(cfg):
    """Its own weights are random here, so it has a small share only."""
    cfg = cfg.clone()
    cfg.MODEL.MTA.CLASSIFIER, cfg.MODEL.MTA.FROZEN_CLIP.ENABLED, cfg.TEST.PRECISION = "ensemble", True, "bfloat16"
    cfg.MODEL.MTA.FROZEN_CLIP.SEEN_EXPONENT = cfg.MODEL.MTA.FROZEN_CLIP.UNSEEN_EXPONENT = 0.1
    model = build_model(cfg)
    lacking = load_for_evaluation(cfg, model)
    assert lacking and all(name.startswith("frozen_clip.") for name in lacking)
    assert_names_are_followed(by_list(evaluate(cfg, model)))


def job(cfg: CfgNode) -> dict[str, dict[str, float]]:
    """Runs in every process; the numbers are the main one's."""
    register_folders(cfg)
    assert comm.get_world_size() == 2
    return evaluated(cfg, "MODEL.MTA.CLASSIFIER", "ensemble")


def test_two_processes_give_the_same_numbers(cfg, ensemble):
    two = launch(job, processes_per_machine=2, device="cpu", args=(cfg,))
    for name in LISTS:
        assert two[name] == pytest.approx(ensemble[name], nan_ok=True), name
