"""Every dataset from its official download to the model's input, on miniatures."""

import subprocess
import sys
from pathlib import Path

import miniatures
import numpy as np
import pytest
import torch
from dataset_files import made, read_labels
from detectron2.data import MetadataCatalog
from PIL import Image
from scripts import load_script

from mta_clip.config import get_cfg
from mta_clip.data import SemanticDatasetMapper, load_dataset_dicts
from mta_clip.data.check import check_dataset
from mta_clip.data.prepare import run_script
from mta_clip.evaluation import build_evaluator

ALL = [(mini, *names) for mini, versions in miniatures.REGISTERED.items() for names in versions]
SCRIPTS = Path(__file__).parents[2] / "datasets"


@pytest.mark.parametrize("mini, train, val, num_classes", ALL, ids=[row[1] for row in ALL])
def test_from_download_to_model_input(mini, train, val, num_classes, datasets_root):
    made(mini, datasets_root)
    ignored = ignored_of(num_classes)
    for name in (train, val):
        findings = check_dataset(name)
        assert findings.troubles() == []
        assert (findings.pixels[ignored] > 0) == (num_classes != 60)  # PASCAL Context 60 has a class for everything
        assert len(findings.pixels) > 4

    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (train,)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.SIZE, cfg.INPUT.SIZE_DIVISIBILITY = (48,), [32, 40], 48
    for record in load_dataset_dicts([train]):
        sample = SemanticDatasetMapper(cfg, is_train=True)(record)
        assert sample["image"].shape == (3, 48, 48)
        values = set(sample["sem_seg"].unique().tolist())
        assert values <= {*range(num_classes), ignored}
        assert values - {ignored}


@pytest.mark.parametrize("train, val, num_classes", [row[1:] for row in ALL], ids=[row[1] for row in ALL])
def test_metadata(train, val, num_classes):
    for name in (train, val):
        metadata = MetadataCatalog.get(name)
        assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == num_classes
        assert (metadata.ignore_label, metadata.evaluator_type) == (ignored_of(num_classes), "sem_seg")


@pytest.mark.parametrize("mini, _train, val, num_classes", ALL, ids=[row[2] for row in ALL])
def test_evaluation(mini, _train, val, num_classes, datasets_root):
    """The truth scores 100; with one class taken for another, these two lose."""
    made(mini, datasets_root)
    evaluator = build_evaluator(get_cfg(), val, None)
    evaluator.output_dir = None
    results = []
    for confused in (False, True):
        evaluator.reset()
        for record in load_dataset_dicts([val]):
            labels = torch.from_numpy(read_labels(val, record).astype(np.int64))
            labels[labels == ignored_of(num_classes)] = 0  # whatever is predicted there does not count
            present = labels.unique()
            if confused:
                labels[labels == present[-1]] = present[-2]
            evaluator.process([record], [{"labels": labels}])
        results.append(evaluator.evaluate()["sem_seg"]["mIoU"])
    assert results[0] == 100 and results[1] < 100


def ignored_of(num_classes: int) -> int:
    """Label maps of more classes than 8 bits can tell apart have 16."""
    return 65535 if num_classes > 255 else 255


def test_scripts_repeat_only_what_is_missing(datasets_root):
    made("ade20k", datasets_root)
    first, second = sorted(datasets_root.glob("ADEChallengeData2016/annotations_detectron2/*/*.png"))[:2]
    content, untouched = first.read_bytes(), second.stat().st_mtime_ns
    first.unlink()
    miniatures.prepare_miniature("ade20k", datasets_root)
    assert first.read_bytes() == content
    assert second.stat().st_mtime_ns == untouched


def test_interrupted_script_leaves_no_broken_file(datasets_root, monkeypatch):
    miniatures.make_miniature("ade20k", datasets_root)

    def half_written(self, file, **options):
        Path(file).write_bytes(b"half a PNG")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Image.Image, "save", half_written)
        miniatures.prepare_miniature("ade20k", datasets_root)
    assert not list(datasets_root.glob("ADEChallengeData2016/annotations_detectron2/*/*.png*"))
    miniatures.prepare_miniature("ade20k", datasets_root)
    assert check_dataset("ade20k_150_sem_seg_train").troubles() == []


@pytest.mark.slow
def test_script_from_the_command_line_in_parallel(datasets_root):
    miniatures.make_miniature("pascal_context", datasets_root)
    script = [sys.executable, str(SCRIPTS / "prepare_pascal_context.py")]
    subprocess.run([*script, "--workers", "2", "--root", str(datasets_root)], check=True)
    assert len(load_dataset_dicts(["pascal_context_59_sem_seg_train"])) == miniatures.TRAIN


@pytest.mark.parametrize("name", ["ade20k", "ade20k_847", "cityscapes", "voc2012", "coco_stuff", "pascal_context"])
def test_script_without_the_download_fails_readably(name, datasets_root, caplog):
    script = load_script(SCRIPTS / f"prepare_{name}.py")
    assert run_script(script.__doc__, script.prepare, ["--root", str(datasets_root)]) == 1
    assert str(datasets_root) in caplog.text
    assert "README" in caplog.text
