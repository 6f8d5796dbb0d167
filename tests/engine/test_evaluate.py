import json
from types import SimpleNamespace

import miniatures
import pytest
import toy_predictor  # noqa: F401  registers the model
from detectron2.modeling import build_model

from mta_clip.config import get_cfg
from mta_clip.engine import evaluate as module
from mta_clip.engine.evaluate import evaluate, evaluate_with_augmentation, mean_iou

VAL = "camvid_sem_seg_val"


@pytest.fixture
def cfg(datasets_root, tmp_path):
    miniatures.make_miniature("camvid", datasets_root)
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", "BrightnessSegmentor"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (VAL,)
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 32
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = (24, 32), True
    cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY = True
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    return cfg


def test_one_dataset(cfg, tmp_path):
    model = build_model(cfg).train()
    results = evaluate(cfg, model)
    assert set(results) == {"sem_seg"} and 0 <= results["sem_seg"]["mIoU"] <= 100
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["sem_seg/mIoU"] == results["sem_seg"]["mIoU"]
    assert model.training and len(model.seen_sizes) == miniatures.VAL


def test_several_datasets_have_a_folder_each(cfg, tmp_path):
    cfg.DATASETS.TEST = (VAL, "camvid_sem_seg_test")
    results = evaluate(cfg, build_model(cfg), subfolder="both")
    assert list(results) == list(cfg.DATASETS.TEST)
    for name in cfg.DATASETS.TEST:
        assert (tmp_path / "run" / "both" / name / "metrics.json").is_file()
    assert mean_iou(results) == results[VAL]["sem_seg"]["mIoU"]


def test_augmented_results_have_names_of_their_own(cfg, tmp_path):
    model = build_model(cfg)
    results = evaluate_with_augmentation(cfg, model)
    assert set(results) == {"sem_seg_TTA"}
    assert (tmp_path / "run" / "tta" / "metrics.json").is_file()
    assert len(model.seen_sizes) == miniatures.VAL * 2 * 2  # sizes and flips


def test_only_the_main_process_has_results(cfg, monkeypatch):
    monkeypatch.setattr(module, "comm", SimpleNamespace(is_main_process=lambda: False))
    assert evaluate(cfg, build_model(cfg)) == {}


def test_nothing_to_evaluate_on_is_an_error(cfg):
    cfg.DATASETS.TEST = ()
    with pytest.raises(ValueError, match=r"DATASETS\.TEST is empty: name at least one"):
        evaluate(cfg, build_model(cfg))


def test_mean_iou_is_found_at_any_depth():
    assert mean_iou({"sem_seg": {"fwIoU": 1.0, "mIoU": 12.5}}) == 12.5
    assert mean_iou({"a_val": {"sem_seg": {"mIoU": 3.0}}, "b_val": {"sem_seg": {"mIoU": 4.0}}}) == 3.0
    assert mean_iou({}) is None
