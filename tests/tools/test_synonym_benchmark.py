import json

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from PIL import Image
from scripts import ROOT, load_script
from tiny_models import tiny_config
from torch import nn

from mta_clip.config import get_cfg
from mta_clip.config_loader import load_config
from mta_clip.data import register_folders
from mta_clip.data.classes import builtin_classes
from mta_clip.data.datasets.shapes import CLASSES, synonym_of

NAMES = ["dark", "grey", "bright"]  # the brightness of their pixels: 0, 1, 2
MEANING = {"dark": 0, "black": 0, "grey": 1, "ashen": 1, "bright": 2, "white": 2, "snow": 2}
SYNONYMS = {"dark": ["black"], "grey": "ashen", "bright": ["white", "gleaming"]}


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/synonym_benchmark.py")


@META_ARCH_REGISTRY.register()
class ByMeaning(nn.Module):
    """Gives every pixel the last of the names that mean its brightness, or the first name if none does."""

    def __init__(self, cfg):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.vocabulary = None

    def set_vocabulary(self, names):
        self.vocabulary = names

    def forward(self, batched_inputs):
        names = self.vocabulary or NAMES
        meant = torch.tensor([MEANING.get(name, -1) for name in names])[:, None, None]
        order = torch.arange(1, len(names) + 1)[:, None, None]
        return [{"sem_seg": (x["image"][0] // 100 == meant) * order} for x in batched_inputs]


@pytest.fixture
def config(tmp_path):
    """A dataset of two images and a model of it; returns the path of the config."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(2):
        labels = np.repeat(np.arange(3, dtype=np.uint8), 8 + index)[None].repeat(16, axis=0)
        Image.fromarray(100 * labels).convert("RGB").save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"{index}.png")
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "ByMeaning"
    cfg.MODEL.PROMPT.CLASS_NAMES = NAMES
    folders = {"image_dir": str(tmp_path / "images"), "label_dir": str(tmp_path / "labels"), "classes": NAMES}
    cfg.DATASETS.FOLDERS = [{"name": "words_test", **folders}]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ["words_test"]
    cfg.INPUT.MIN_SIZE_TEST = 16
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save({"model": {"weight": torch.zeros(())}}, tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "synonyms.yaml").write_text(yaml.safe_dump(SYNONYMS))
    (tmp_path / "longer.txt").write_text("wet\nsnow\nGleaming\n")
    return tmp_path / "config.yaml"


def test_the_command(tool, config, tmp_path, capsys):
    files = ["--synonyms", str(tmp_path / "synonyms.yaml"), "--distractors", str(tmp_path / "longer.txt")]
    unseen = ["DATASETS.UNSEEN_CLASSES", "['bright']", "TEST.SEM_SEG.BOUNDARY_IOU", "True"]
    out = tmp_path / "out"
    assert tool.main(["--config-file", str(config), *files, "--output", str(out), *unseen]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "| names | mIoU | boundary mIoU | mIoU, seen | mIoU, unseen |",
        "| --- | --- | --- | --- | --- |",
    ]
    means = {line.split(" | ")[0][2:]: [float(x) for x in line[:-2].split(" | ")[1:]] for line in lines[2:7]}
    assert means == {
        "linear classifier": [100, 100, 100, 100],
        "own names": [100, 100, 100, 100],
        "synonyms": [100, 100, 100, 100],
        "synonyms, each taken for the next class": [0, 0, 0, 0],
        "own names and 2 distractors": [66.67, 66.67, 100, 0],  # "snow" takes every bright pixel
    }
    assert lines[8] == "| IoU | dark | grey | bright |" and lines[-1].endswith(" | 100.00 | 100.00 | 0.00 |")
    content = json.loads((out / "words.json").read_text())
    assert content["distractors"] == ["wet", "snow"] and content["unseen"] == ["bright"]
    assert content["results"]["synonyms"]["IoU"] == dict.fromkeys(NAMES, 100)
    assert (out / "words.md").read_text().splitlines() == lines


def test_mta_clip_as_trained_with_the_linear_classifier(tool, config, tmp_path):
    """Its own names go to the classifier of the config, all lists of names to text."""
    register_folders(load_config(str(config), []))
    cfg = tiny_config(
        "DATASETS.TEST", ("words_test",), "MODEL.PROMPT.CLASS_NAMES", NAMES, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3
    )
    cfg.DATALOADER.NUM_WORKERS, cfg.OUTPUT_DIR = 0, str(tmp_path)
    assert cfg.MODEL.MTA.CLASSIFIER == "linear"
    results = tool.compare(cfg, build_model(cfg), "words_test", {name: [f"{name} one"] for name in NAMES}, ["wet"])
    assert [*results][::4] == ["linear classifier", "own names and 1 distractors"]
    assert all(list(scores["IoU"]) == NAMES for scores in results.values())
    cfg.MODEL.PROMPT.CLASS_NAMES = ["night", "dusk", "day"]  # a model of other classes
    assert list(tool.compare(cfg, build_model(cfg), "words_test")) == ["own names"]


def test_absent_classes_have_no_iou(tool):
    tables = tool.summary({"names": {"IoU": {"a": 50.0, "b": None}}}, ["b"]).splitlines()
    assert tables[2] == "| names | 50.00 | 50.00 | - |" and tables[-1] == "| names | 50.00 | - |"


def test_a_dataset_by_other_names_keeps_its_labels(tool, config):
    register_folders(load_config(str(config), []))
    for names in (["x", "y", "z"], ["x", "y", "z", "w"]):  # again under the same title
        new = tool.renamed("words_test", "letters", names)
        assert MetadataCatalog.get(new).stuff_classes == names
    assert MetadataCatalog.get(new).ignore_label == 255 and MetadataCatalog.get("words_test").stuff_classes == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[black]", "expected a mapping of classes to synonyms, got list"),
        ("{dark: black, grey: '', bright: white}", r"no synonym for \['grey'\]"),
        ("{dark: black, grey: ashen, bright: white, loud: noisy}", r"no classes of the dataset: \['loud'\]"),
    ],
)
def test_wrong_synonyms_are_named(tool, tmp_path, content, message):
    (tmp_path / "file.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        tool.read_synonyms(tmp_path / "file.yaml", NAMES)


def test_shipped_synonyms(tool):
    shapes = tool.read_synonyms(ROOT / "tools" / "synonyms" / "shapes.yaml", CLASSES.names)
    assert shapes == {name: [synonym_of(name)] for name in CLASSES.names}
    camvid = builtin_classes("camvid").names
    tested, longer = set(), []
    for file in ("camvid.yaml", "camvid_2.yaml"):
        synonyms = tool.read_synonyms(ROOT / "tools" / "synonyms" / file, camvid)
        words = [word for name in camvid for word in [name, *synonyms[name]]]
        assert len(words) == len(set(words))
        distractors = tool.read_distractors("ade20k", camvid, synonyms)
        assert len(distractors) > 100 and not set(distractors) & {*words, "car", "person", "traffic light"}
        assert {"sofa", "water", "mountain"} < set(distractors)
        tested |= {synonyms[name][0] for name in camvid}
        longer.append(distractors)
    assert len(tested) == 2 * len(camvid) and longer[0] == longer[1]


def test_a_dataset_is_required(tool, config):
    with pytest.raises(ValueError, match="--dataset"):
        tool.main(["--config-file", str(config), "--output", "nowhere", "DATASETS.TEST", "()"])
