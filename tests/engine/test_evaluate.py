import json
from contextlib import nullcontext
from types import SimpleNamespace

import miniatures
import numpy as np
import pytest
import torch
import toy_predictor  # noqa: F401  registers the model
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image
from tiny_models import tiny_config

from mta_clip.config import get_cfg
from mta_clip.data import register_folders
from mta_clip.engine import evaluate as module
from mta_clip.engine.evaluate import check_test_classes, evaluate, evaluate_with_augmentation, mean_iou
from mta_clip.modeling import MTACLIP, SegmentationModel
from mta_clip.modeling.inference import Scores, WholeScores

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


class BrightnessByName(SegmentationModel):
    """Knows what "dark" and "bright" mean, in any list of names; other names never win."""

    def __init__(self, fail=False) -> None:
        super().__init__(pixel_mean=[0] * 3, pixel_std=[1] * 3, size_divisibility=1)
        self.names, self.fail = None, fail

    @property
    def vocabulary(self):
        return self.names

    def set_vocabulary(self, names) -> None:
        self.names = names

    def predict(self, images):
        if self.fail:
            raise RuntimeError("out of memory")
        return [self._scores(image.mean(0) - 100.5) for image in images]

    def _scores(self, bright):
        maps = {"dark": -bright, "bright": bright}
        scores = [maps.get(name, torch.full_like(bright, -1e4)) for name in self.names or ("dark", "bright")]
        return WholeScores(Scores(torch.stack(scores)))


class OwnMTACLIP(MTACLIP):
    """A model as users derive theirs, of another name."""


@pytest.fixture
def folders(tmp_path):
    """A config with datasets of the same images, whose classes are called and numbered differently."""
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 20), np.uint8)
    lists = {
        "own": ["dark", "bright"],
        "reordered": ["bright", "dark"],
        "renamed": ["gloomy", "bright", "purple"],
    }
    entries = []
    for name, classes in lists.items():
        bright = classes.index("bright")
        for index, image in enumerate(images):
            labels = np.where(image > 120, bright, 1 - bright)  # the model has 100.5, so it is not always right
            for kind, pixels in (("images", np.repeat(image[..., None], 3, 2)), ("labels", labels.astype(np.uint8))):
                (tmp_path / name / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / name / kind / f"{index}.png")
        folder = {"image_dir": str(tmp_path / name / "images"), "label_dir": str(tmp_path / name / "labels")}
        entries.append({"name": name, "classes": classes, **folder})
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE, cfg.OUTPUT_DIR = "cpu", "BrightnessByName", str(tmp_path / "run")
    cfg.DATASETS.FOLDERS, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = entries, ("own",), tuple(lists)
    cfg.INPUT.MIN_SIZE_TEST, cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = 16, (16,), False
    cfg.DATALOADER.NUM_WORKERS = 0
    register_folders(cfg)
    yield cfg
    for name in lists:
        DatasetCatalog.pop(name), MetadataCatalog.pop(name)


class TestOtherClasses:
    @pytest.mark.parametrize("augmented", [False, True])
    def test_numbers_follow_names_not_positions(self, folders, augmented):
        run = evaluate_with_augmentation if augmented else evaluate
        own, reordered, renamed = (result["sem_seg"] for result in run(folders, BrightnessByName()).values())
        assert 60 < own["mIoU"] < 90
        for key in ("mIoU", "IoU-dark", "IoU-bright"):
            assert reordered[key] == own[key]
        assert renamed["IoU-gloomy"] == 0 and renamed["IoU-bright"] > 0
        assert not {"mIoU_seen", "hIoU"} & (own.keys() | reordered.keys())
        assert (renamed["mIoU_seen"], renamed["mIoU_unseen"]) == (renamed["IoU-bright"], 0)

    def test_the_names_of_before_are_restored_also_after_an_error(self, folders):
        folders.DATASETS.TEST = ("renamed",)
        for model in (BrightnessByName(), BrightnessByName(fail=True)):
            model.set_vocabulary(["bright", "dark", "sky"])
            with pytest.raises(RuntimeError, match="out of memory") if model.fail else nullcontext():
                evaluate(folders, model)
            assert model.vocabulary == ["bright", "dark", "sky"]

    def test_a_dataset_with_the_classes_of_the_model_leaves_the_vocabulary_alone(self, folders, monkeypatch):
        folders.DATASETS.TEST = ("own",)
        monkeypatch.setattr(BrightnessByName, "set_vocabulary", None)
        evaluate(folders, BrightnessByName())
        folders.MODEL.PROMPT.CLASS_NAMES = ["gloomy", "shiny"]  # how the model calls them
        evaluate(folders, BrightnessByName())

    def test_one_table_over_all_datasets(self, folders, caplog):
        with caplog.at_level("INFO", logger="mta_clip"):
            evaluate(folders, BrightnessByName())
        (table,) = [record.getMessage() for record in caplog.records if "3 datasets" in record.getMessage()]
        assert [line.split()[0] for line in table.splitlines()[3:]] == ["own", "reordered", "renamed", "mean"]

    @pytest.mark.parametrize("run", [evaluate, evaluate_with_augmentation])
    def test_the_linear_classifier_is_refused_before_anything_is_evaluated(self, folders, run):
        model = OwnMTACLIP(tiny_config())
        with pytest.raises(ValueError, match=r"reordered has other classes.*MODEL\.MTA\.CLASSIFIER linear.*text or"):
            run(folders, model)
        check_test_classes(folders, OwnMTACLIP(tiny_config("MODEL.MTA.CLASSIFIER", "text")))
        model.set_vocabulary(["dark", "light"])
        check_test_classes(folders, model)  # names that someone asked for are compared with text

    def test_a_model_without_a_vocabulary_is_refused(self, folders):
        model = SegmentationModel(pixel_mean=[0] * 3, pixel_std=[1] * 3, size_divisibility=1)
        folders.DATASETS.TEST = ("renamed",)
        with pytest.raises(ValueError, match="SegmentationModel knows only the classes of its training"):
            evaluate(folders, model)
