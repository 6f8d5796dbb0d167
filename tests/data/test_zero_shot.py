import numpy as np
import pytest

from mta_clip.config import get_cfg
from mta_clip.data.zero_shot import (
    UNLABELLED,
    ClassSplit,
    VisibleLabels,
    held_out_classes,
    protocol_from_config,
    visible_labels,
)

NAMES = ["sky", "road", "cow", "tree"]
LABELS = np.array([[0, 1, 2, 3, 255]], np.uint8)


def test_split():
    split = ClassSplit(NAMES, ["tree", "road"])
    assert (split.seen, split.unseen, split.num_classes) == ([0, 2], [1, 3], 4)


def test_unknown_unseen_class_names_the_closest():
    with pytest.raises(ValueError, match=r"'raod', which is no class.*did you mean 'road'"):
        ClassSplit(NAMES, ["raod"])
    with pytest.raises(ValueError, match=r"'zzz'.*classes: \['sky'"):
        ClassSplit(NAMES, ["zzz"])
    with pytest.raises(ValueError, match=r"did you mean 'car\d' or 'car\d' or 'car\d'\?"):
        ClassSplit(["car1", "car2", "car3", "car4"], ["car"])


def test_nothing_seen_and_duplicates_are_refused():
    with pytest.raises(ValueError, match="all 4 classes are unseen"):
        ClassSplit(NAMES, NAMES)
    with pytest.raises(ValueError, match=r"unseen classes must be unique.*\['cow'\]"):
        ClassSplit(NAMES, ["cow", "cow"])
    with pytest.raises(ValueError, match=r"class names must be unique.*\['sky'\]"):
        ClassSplit([*NAMES, "sky"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize(
    ("protocol", "read", "finished"),
    [
        ("inductive", [0, 255, 2, 255, 255], [0, 255, 2, 255, 255]),
        ("transductive", [0, 1, 2, 1, 255], [0, UNLABELLED, 2, UNLABELLED, 255]),
        ("inductive_released", [0, 1, 2, 3, 255], [0, 1, 2, 3, 255]),
        ("supervised", [0, 1, 2, 3, 255], [0, 1, 2, 3, 255]),
    ],
)
def test_what_training_sees(protocol, read, finished, dtype):
    visible = VisibleLabels(split=ClassSplit(NAMES, ["tree", "road"]), protocol=protocol, ignore_label=255)
    labels = visible.as_read(LABELS.astype(dtype))
    assert (labels.dtype, labels.tolist()) == (dtype, [read])
    assert visible.finished(labels.astype(np.int64)).tolist() == [finished]


def test_without_unseen_classes_all_is_seen():
    visible = VisibleLabels(split=ClassSplit(NAMES), protocol="inductive", ignore_label=255)
    assert visible.finished(visible.as_read(LABELS)).tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("protocol", "unseen", "ignore_label", "message"),
    [
        ("semi", ["cow"], 255, r"DATASETS.PROTOCOL must be one of \('inductive', .*got 'semi'"),
        ("transductive", [], 255, "needs unseen classes; name them in DATASETS.UNSEEN_CLASSES"),
        ("transductive", ["cow"], -1, "ignore label -1 stands for pixels of unseen classes"),
        ("inductive", ["cow"], 2, "ignore label 2 is also the label of 'cow'"),
        ("inductive", ["cow"], 0, "ignore label 0 is also the label of 'sky'"),
    ],
)
def test_what_cannot_be_trained_is_refused(protocol, unseen, ignore_label, message):
    with pytest.raises(ValueError, match=message):
        VisibleLabels(split=ClassSplit(NAMES, unseen), protocol=protocol, ignore_label=ignore_label)


def test_classes_without_labels():
    cfg = get_cfg()
    cfg.DATASETS.UNSEEN_CLASSES = NAMES[2:]
    for protocol, held_out in (("inductive", NAMES[2:]), ("transductive", NAMES[2:]), ("supervised", [])):
        cfg.DATASETS.PROTOCOL = protocol
        assert list(held_out_classes(cfg)) == held_out


def test_protocol_of_a_config():
    cfg = get_cfg()
    assert protocol_from_config(cfg) == "inductive"
    cfg.DATASETS.PROTOCOL = "semi"
    with pytest.raises(ValueError, match=r"must be one of .*'semi'"):
        protocol_from_config(cfg)
    cfg.DATASETS.PROTOCOL = "transductive"
    assert protocol_from_config(cfg) == "transductive"
    with pytest.raises(ValueError, match=r"'transductive', but MTACLIP supports inductive and supervised only"):
        protocol_from_config(cfg, supported=("inductive", "supervised"))
    cfg.MODEL.TAGCLIP.PROTOCOL = "supervised"
    with pytest.raises(ValueError, match=r"MODEL.TAGCLIP.PROTOCOL is 'supervised'.*set DATASETS.PROTOCOL"):
        protocol_from_config(cfg)


def test_what_a_config_hides():
    cfg = get_cfg()
    twice = ["road", "road"]  # as in some datasets; no matter while all classes are seen
    assert visible_labels(cfg, twice, 255) is None
    cfg.DATASETS.UNSEEN_CLASSES = ["sky"]
    of_dataset = visible_labels(cfg, ["road ", "sky"], 255)
    assert of_dataset.unseen == [1] and of_dataset.protocol == "inductive" and of_dataset.ignore_label == 255
    cfg.MODEL.PROMPT.CLASS_NAMES = ["sky", "road"]
    assert visible_labels(cfg, ["a", "b"], 255).unseen == [0]
    cfg.DATASETS.PROTOCOL, cfg.DATASETS.UNSEEN_CLASSES = "transductive", []
    with pytest.raises(ValueError, match="needs unseen classes"):
        visible_labels(cfg, ["road", "sky"], 255)
