"""Every shipped YAML: states how to launch it, builds, takes a training step and is evaluated on a miniature."""

import math
import os
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from miniatures import make_miniature, prepare_miniature

from mta_clip.config_loader import load_config
from mta_clip.data import build_train_loader
from mta_clip.engine.evaluate import evaluate
from mta_clip.engine.optimizer import build_optimizer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if not path.name.startswith("_"))
MINIATURE_OF = {"coco_stuff164k": "coco_stuff"}  # where folder and miniature differ in name
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.CLIP.PRETRAINED": "",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
    "INPUT.MIN_SIZE_TRAIN": (64, 64),
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.CROP.SIZE": (64, 64),
    "INPUT.SIZE_DIVISIBILITY": 64,
    "TEST.SLIDING_WINDOW.SIZE": (64, 64),
    "TEST.SLIDING_WINDOW.STRIDE": (48, 48),
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.AMP.ENABLED": False,  # fp16 needs a GPU
    "DATALOADER.NUM_WORKERS": 0,
}


def name_of(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory):
    """Makes and prepares each dataset's miniature once; returns the function that does."""
    root = tmp_path_factory.mktemp("datasets")
    before = os.environ.get("DETECTRON2_DATASETS")
    os.environ["DETECTRON2_DATASETS"] = str(root)
    made = set()

    def make(name: str) -> None:
        if name not in made:
            make_miniature(name, root)
            prepare_miniature(name, root)
            made.add(name)

    yield make
    if before is None:
        del os.environ["DETECTRON2_DATASETS"]
    else:
        os.environ["DETECTRON2_DATASETS"] = before


def test_there_are_configs():
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_opens_with_its_launch_line(path):
    comment = [line for line in path.read_text().splitlines()[:8] if line.startswith("#")]
    assert any(f"--config-file configs/{name_of(path)}.yaml" in line for line in comment)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_builds_steps_and_evaluates(path, miniatures, tmp_path):
    folder = path.relative_to(CONFIGS).parts[0]
    miniatures(MINIATURE_OF.get(folder, folder))
    overrides = [str(item) for pair in SMALL.items() for item in pair]
    cfg = load_config(str(path), [*overrides, "OUTPUT_DIR", str(tmp_path)])
    if cfg.MODEL.META_ARCHITECTURE == "TagCLIP":  # its tower is one in all configs, and tested elsewhere; this is fast
        cfg.MODEL.CLIP.NAME = "mta-tiny-vit"
    assert len(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).stuff_classes) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES

    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trainable[-20:]]
    with EventStorage():  # schedules inside a model go by its iteration
        losses = model.train()(next(iter(build_train_loader(cfg, seed=0))))
    assert losses and all(math.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    if not cfg.SOLVER.FIND_UNUSED_PARAMETERS:  # DistributedDataParallel would stop at a parameter without a gradient
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainable[-20:], strict=True))

    results = evaluate(cfg, model)
    assert 0 <= results["sem_seg"]["mIoU"] <= 100
