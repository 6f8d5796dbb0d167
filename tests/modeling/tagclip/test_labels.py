import pytest
import torch

from mta_clip.data.zero_shot import UNLABELLED, ClassSplit
from mta_clip.modeling.tagclip.labels import TrainingLabels, fill_pseudo_labels

NAMES = ["sky", "road", "cow", "tree"]
LABELS = torch.tensor([[[0, 1, 2, 3, 255]]])


def make(protocol: str, **options) -> TrainingLabels:
    return TrainingLabels(split=ClassSplit(NAMES, ["tree", "road"]), protocol=protocol, **options)


@pytest.mark.parametrize(
    ("protocol", "options", "numbers", "trained"),
    [
        ("inductive", {}, [0, 255, 1, 255, 255], [0, 2]),
        ("inductive_released", {"trusty_target": "unseen"}, [0, 255, 1, 255, 255], [0, 2]),
        ("transductive", {}, [0, -1, 2, -1, 255], [0, 1, 2, 3]),
        ("transductive", {"pseudo_labels": False}, [0, 255, 2, 255, 255], [0, 1, 2, 3]),
        ("supervised", {}, [0, 1, 2, 3, 255], [0, 1, 2, 3]),
    ],
)
def test_numbers(protocol, options, numbers, trained):
    labels = make(protocol, **options)
    assert labels(LABELS).flatten().tolist() == numbers
    assert labels.trained_classes == trained


@pytest.mark.parametrize("pseudo_labels", [True, False])
@pytest.mark.parametrize("target", ["seen", "unseen"])
def test_label_maps_of_the_mapper_give_the_same(pseudo_labels, target):
    """The mapper has already made pixels of unseen classes UNLABELLED."""
    loaded = torch.tensor([[[0, UNLABELLED, 2, UNLABELLED, 255]]])
    labels = make("transductive", pseudo_labels=pseudo_labels, trusty_target=target)
    for view in (labels, labels.inductive()):
        assert torch.equal(view(loaded), view(LABELS))
        assert torch.equal(view.trusty_target(loaded), view.trusty_target(LABELS))


def test_inductive_view():
    view = make("transductive", trusty_target="unseen").inductive()
    assert view.trained_classes == [0, 2] and not view.pseudo_labels
    assert view(LABELS).flatten().tolist() == [0, 255, 1, 255, 255]
    view.check(torch.tensor([UNLABELLED, 255]))  # the same label maps
    assert not view.state_dict()  # tables follow from the config


def test_trusty_targets():
    assert make("inductive").trusty_target(LABELS).flatten().tolist() == [True, False, True, False, False]
    released = make("inductive_released", trusty_target="unseen")
    assert released.trusty_target(LABELS).flatten().tolist() == [False, True, False, True, False]


def test_the_default_target_is_the_seen_classes_without_ignored_pixels():
    for protocol in ("inductive", "transductive", "supervised"):
        labels = make(protocol)
        assert labels.trusty_target_is_seen
        assert labels.trusty_target(LABELS).flatten().tolist() == [True, False, True, False, False]
        assert not labels.trusty_target(torch.tensor([UNLABELLED, 255])).any()
    assert make("transductive").pseudo_labels and not make("supervised").pseudo_labels


def test_the_table_has_room_for_any_ignore_label():
    for ignore_label in (-5, 4, 255, 256, 1000):
        labels = make("supervised", ignore_label=ignore_label)
        assert labels(torch.tensor([0, 3])).tolist() == [0, 3]
        if ignore_label >= 0:
            assert labels(torch.tensor([ignore_label])).tolist() == [ignore_label]
            assert not labels.trusty_target(torch.tensor([ignore_label])).any()


def test_many_classes_and_other_ignore_labels():
    split = ClassSplit([f"class {i}" for i in range(847)], ["class 846"])
    labels = TrainingLabels(split=split, ignore_label=65535)
    assert labels(torch.tensor([[845, 846, 65535]])).tolist() == [[845, 65535, 65535]]
    supervised = TrainingLabels(split=ClassSplit(NAMES), protocol="supervised", ignore_label=4)
    assert supervised(torch.tensor([[3, 4]])).tolist() == [[3, 4]]
    with pytest.raises(ValueError, match="ignore label 2 is also the label of 'cow'"):
        make("supervised", ignore_label=2)


@pytest.mark.parametrize(
    ("protocol", "value", "message"),
    [
        ("inductive", UNLABELLED, r"sem_seg of the batch: label -1 is neither a class \(0\.\.3\) nor 255; check"),
        ("supervised", UNLABELLED, r"label -1 is"),
        ("transductive", -2, r"label -2 is neither a class \(0\.\.3\) nor 255 or -1; check"),
        ("transductive", 4, r"label 4 is"),
    ],
)
def test_unknown_values_are_refused(protocol, value, message):
    with pytest.raises(ValueError, match=message):
        make(protocol).check(torch.tensor([[[0, value]]]))


@pytest.mark.parametrize(
    ("protocol", "target", "message"),
    [
        ("inductive", "unseen", "set DATASETS.PROTOCOL inductive_released"),
        ("inductive_released", "seen", "set DATASETS.PROTOCOL inductive, or TRUSTY_TARGET unseen"),
        ("inductive", "all", "TRUSTY_TARGET must be one of .*'all'"),
        ("semi", "seen", "DATASETS.PROTOCOL must be one of .*'semi'"),
    ],
)
def test_bad_settings(protocol, target, message):
    with pytest.raises(ValueError, match=message):
        make(protocol, trusty_target=target)


def test_pseudo_labels_touch_unlabelled_pixels_only():
    labels = torch.tensor([[[0, UNLABELLED, 255], [2, UNLABELLED, UNLABELLED]]])
    logits = torch.zeros(1, 4, 2, 3)
    logits[:, 0] = 9.0  # a seen class never becomes a pseudo-label
    logits[:, 1, 0], logits[:, 3, 1] = 1.0, 1.0
    filled = fill_pseudo_labels(labels, logits, [1, 3])
    assert filled.tolist() == [[[0, 1, 255], [2, 3, 3]]]
    assert fill_pseudo_labels(labels[:, :1], logits[:, :, :1], [1, 3]).tolist() == [[[0, 1, 255]]]
    assert not filled.requires_grad
