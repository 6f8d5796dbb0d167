"""Every shipped YAML: states how to launch it, builds, takes a training step and is evaluated on a miniature.

One config has each of the large towers as it is; the others of its kind have a tiny one in its place.
"""

import itertools
import os
from pathlib import Path

import pytest
import tiny_towers  # noqa: F401  registers timm:tiny_swin
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from miniatures import REGISTERED, make_miniature, prepare_miniature
from shipped_configs import BASES, CONFIGS, FILES, bases_of, name_of

from mta_clip.config_loader import load_config
from mta_clip.data import build_train_loader, own_config, register_folders, with_classes
from mta_clip.data.check import check_training_data
from mta_clip.data.classes import builtin_classes
from mta_clip.engine.evaluate import evaluate
from mta_clip.engine.optimizer import build_optimizer
from mta_clip.evaluation import semantic_evaluator

MINIATURE_OF = {
    dataset: name for name, registered in REGISTERED.items() for *datasets, _ in registered for dataset in datasets
}
WITH_REAL_TOWERS = (
    "voc2012/mta_clip_rn50",
    "cityscapes/mta_clip_rn101",
    "ade20k/mta_clip_vit_b16_published",
    "ade20k/mta_clip_vit_l14",
    "ade20k/mta_clip_convnext_base",
    "cityscapes/mask2former_r50",
    "ade20k/mask2former_swin_tiny",
    "camvid/mask2former_lite2_imagenet",
    "voc2012/tagclip_inductive",
)
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.CLIP.PRETRAINED": "",
    "MODEL.CLIP.IMAGE_PRETRAINED": "",
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


def is_own(path: Path) -> bool:
    """Whether a config leaves the data to `own_config`."""
    return path.parent.name == "own"


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


def test_each_opens_with_its_launch_line():
    for path in FILES:
        lines = path.read_text().splitlines()
        comment = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
        launch = [line for line in lines if "--config-file" in line]
        assert len(launch) == 1 and launch[0] in comment, path
        command = "mta-clip train --data" if is_own(path) else "train_net.py --"
        assert command in launch[0] and f"--config-file configs/{name_of(path)}.yaml" in launch[0], path
        assert len(comment) <= 3, f"{path}: what is true of all configs stands in configs/README.md"


def test_every_base_is_used():
    assert {base for path in FILES for base in bases_of(path)} >= set(BASES)


def keys_of(content: dict, prefix: str = "") -> set[str]:
    return {
        key
        for name, value in content.items()
        for key in (keys_of(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"})
    }


def test_bases_keep_to_their_subject():
    for path in BASES:
        keys = keys_of(yaml.safe_load(path.read_text())) - {"_BASE_"}
        about_data = {key for key in keys if key.startswith("DATASETS.") or key.endswith(".NUM_CLASSES")}
        kind = path.parent.name
        if kind == "datasets":
            assert keys == {"DATASETS.TRAIN", "DATASETS.TEST", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"}, path
        elif kind == "zero_shot":
            assert keys == {"DATASETS.UNSEEN_CLASSES"}, path
        elif kind == "methods":
            assert all(key.startswith("MODEL.") for key in keys - {"DATASETS.PROTOCOL"}), path
        else:
            assert kind == "recipes" and not any(key.startswith("MODEL.") for key in keys), path
            assert not about_data, path


def test_data_is_described_in_bases_only():
    """Datasets, numbers of classes and unseen classes stand once."""
    for path in FILES:
        keys = keys_of(yaml.safe_load(path.read_text()))
        assert not keys & {
            "DATASETS.TRAIN",
            "DATASETS.TEST",
            "DATASETS.UNSEEN_CLASSES",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        }


@pytest.mark.parametrize(
    ("split", "classes", "positions"),
    [
        ("voc2012", "voc2012", [15, 16, 17, 18, 19]),
        ("coco_stuff164k", "coco_stuff", [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160]),
        ("pascal_context", "pascal_context", [0, 6, 7, 14, 19, 24, 31, 33, 48, 54]),
        ("shapes", "shapes", [2, 8, 10]),
    ],
)
def test_zero_shot_splits(split, classes, positions):
    unseen = load_config(str(CONFIGS / "_base" / "zero_shot" / f"{split}.yaml"), []).DATASETS.UNSEEN_CLASSES
    names = builtin_classes(classes).names
    assert sorted(names.index(name) for name in unseen) == positions
    for path in [*(CONFIGS / split).glob("tagclip_*.yaml"), *(CONFIGS / split).glob("zegclip_*.yaml")]:
        all_seen = "from_coco_stuff" in path.stem or path.stem == "tagclip_supervised_published"
        held_out = [] if all_seen else unseen
        assert held_out == load_config(str(path), []).DATASETS.UNSEEN_CLASSES, path


def test_open_vocabulary_is_tested_on_the_whole_suite():
    for path in (CONFIGS / "open_vocabulary").glob("*.yaml"):
        cfg = load_config(str(path), [])
        assert sorted(len(classes_of(name)) for name in cfg.DATASETS.TEST) == [20, 21, 59, 150, 171, 459, 847], path
        assert cfg.DATASETS.UNSEEN_CLASSES == [] and not cfg.TEST.KEEP_BEST, path  # nothing is chosen by the test sets
        assert cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY, path


def test_words_of_unseen_shapes_are_seen():
    unseen = load_config(str(CONFIGS / "shapes" / "tagclip_inductive.yaml"), []).DATASETS.UNSEEN_CLASSES
    seen = {word for name in builtin_classes("shapes").names if name not in unseen for word in name.split()}
    assert {word for name in unseen for word in name.split()} <= seen


def towers_of(cfg: CfgNode) -> str:
    """The image encoder of a config, and where it has text the CLIP model that text comes from."""
    if "swin" in cfg.MODEL.CLIP.IMAGE_NAME:
        return "Swin"  # tests/checkpoint/test_sources.py builds each size
    if cfg.MODEL.CLIP.IMAGE_NAME:
        return cfg.MODEL.CLIP.IMAGE_NAME
    depth = cfg.MODEL.RESNETS.DEPTH if "resnet" in cfg.MODEL.BACKBONE.NAME else ""
    return f"{cfg.MODEL.BACKBONE.NAME} {depth or cfg.MODEL.CLIP.NAME}"


def shrink_towers(cfg: CfgNode) -> None:
    """Tiny towers, of the same kind but for the text; all else, such as the number of contexts, stays."""
    cfg.MODEL.CLIP.TEXT_NAME = ""  # of Hugging Face: tests/modeling/clip/text_towers/test_hugging_face.py
    if "resnet" in cfg.MODEL.BACKBONE.NAME:
        cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    elif cfg.MODEL.CLIP.IMAGE_NAME:
        cfg.MODEL.CLIP.IMAGE_NAME = "timm:tiny_swin"
    elif not cfg.MODEL.CLIP.NAME.startswith("mta-tiny"):
        cfg.MODEL.CLIP.NAME = "mta-tiny-vit" if "ViT" in cfg.MODEL.CLIP.NAME else "mta-tiny"
        cfg.MODEL.CLIP.VIT_FEATURE_BLOCKS = []  # the tiny one has fewer


def test_each_tower_is_built_as_it_is_once():
    towers = {name_of(path): towers_of(load_config(str(path), [])) for path in FILES}
    assert sorted(towers[name] for name in WITH_REAL_TOWERS) == sorted(
        {tower for tower in towers.values() if "mta-tiny" not in tower}  # no kind twice, none left out
    )


def classes_of(dataset: str) -> list[str]:
    return MetadataCatalog.get(dataset).stuff_classes


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_builds_steps_and_evaluates(path, miniatures, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(semantic_evaluator, "draw_confusion", lambda *_: None)  # takes longer than all the rest
    overrides = [str(item) for pair in SMALL.items() for item in pair]
    cfg = load_config(str(path), [*overrides, "OUTPUT_DIR", str(tmp_path)])
    for name in {MINIATURE_OF[dataset] for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)} or {"own"}:
        miniatures(name)
    if name_of(path) not in WITH_REAL_TOWERS:
        shrink_towers(cfg)
    if name_of(path) in WITH_REAL_TOWERS or path.stem.endswith("_published") or path.parent.name == "open_vocabulary":
        cfg.MODEL.PROMPT.NUM_CONTEXTS = 1  # each costs a pass of the text tower over all names; others keep all
    if is_own(path):
        assert not cfg.DATASETS.TRAIN
        cfg = own_config(cfg, data=Path(os.environ["DETECTRON2_DATASETS"]) / "own")
        cfg.DATASETS.UNSEEN_CLASSES = ["my cat"] if path.stem == "tagclip_inductive" else []
        register_folders(cfg)
        check_training_data(cfg)
        cfg = with_classes(cfg)
    classes = classes_of(cfg.DATASETS.TRAIN[0])
    assert len(classes) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES

    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    assert "SOLVER.WEIGHT_DECAY_BY_NAME" not in caplog.text  # every pattern fits a parameter
    trainable = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trainable[-20:]]
    with EventStorage():  # schedules inside a model go by its iteration
        losses = model.train()(next(iter(build_train_loader(cfg, seed=0))))
    assert losses and all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    if not cfg.SOLVER.FIND_UNUSED_PARAMETERS:  # DistributedDataParallel would stop at a parameter without a gradient
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainable[-20:], strict=True))

    results = evaluate(cfg, model)
    results = results if len(cfg.DATASETS.TEST) > 1 else {cfg.DATASETS.TEST[0]: results}
    assert list(results) == list(cfg.DATASETS.TEST)
    for name, metrics in results.items():
        assert 0 <= metrics["sem_seg"]["mIoU"] <= 100
        called = [key.removeprefix("IoU-") for key in metrics["sem_seg"] if key.startswith("IoU-")]
        assert called == classes_of(name)
