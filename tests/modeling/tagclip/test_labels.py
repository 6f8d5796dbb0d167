import pytest
import torch

from mta_clip.modeling.tagclip.labels import UNLABELLED, ClassSplit, check_labels, fill_pseudo_labels

NAMES = ["sky", "road", "cow", "tree"]


def test_tables():
    split = ClassSplit(NAMES, ["tree", "road"])
    assert (split.seen, split.unseen) == ([0, 2], [1, 3])
    assert split.seen_mask().tolist() == [True, False, True, False]
    labels = torch.tensor([0, 1, 2, 3, 255])
    assert split.seen_table(255)[labels].tolist() == [0, 255, 1, 255, 255]
    assert split.full_table(255)[labels].tolist() == [0, 1, 2, 3, 255]
    assert split.full_table(255, unseen_label=UNLABELLED)[labels].tolist() == [0, -1, 2, -1, 255]
    assert split.full_table(255, unseen_label=255)[labels].tolist() == [0, 255, 2, 255, 255]


def test_tables_of_many_classes_and_other_ignore_labels():
    split = ClassSplit([f"class {i}" for i in range(847)], ["class 846"])
    table = split.seen_table(65535)
    assert table[845] == 845 and table[846] == 65535 and table[65535] == 65535
    assert ClassSplit(NAMES).full_table(4)[[3, 4]].tolist() == [3, 4]
    with pytest.raises(ValueError, match="ignore label 2 is also the label of 'cow'"):
        ClassSplit(NAMES).seen_table(2)


def test_unknown_unseen_class_names_the_closest():
    with pytest.raises(ValueError, match=r"'raod', which is no class.*did you mean 'road'"):
        ClassSplit(NAMES, ["raod"])
    with pytest.raises(ValueError, match=r"'zzz'.*classes: \['sky'"):
        ClassSplit(NAMES, ["zzz"])


def test_nothing_seen_and_duplicates_are_refused():
    with pytest.raises(ValueError, match="all 4 classes are unseen"):
        ClassSplit(NAMES, NAMES)
    with pytest.raises(ValueError, match=r"unseen classes must be unique.*\['cow'\]"):
        ClassSplit(NAMES, ["cow", "cow"])
    with pytest.raises(ValueError, match=r"class names must be unique.*\['sky'\]"):
        ClassSplit([*NAMES, "sky"])


def test_check_labels_names_the_values():
    check_labels(torch.tensor([[0, 3, 255]]), 4, 255)
    with pytest.raises(ValueError, match=r"hold \[-1, 4, 200\].*0\.\.3"):
        check_labels(torch.tensor([[0, 4, 255], [200, -1, 1]]), 4, 255)


def test_pseudo_labels_touch_unlabelled_pixels_only():
    labels = torch.tensor([[[0, UNLABELLED, 255], [2, UNLABELLED, UNLABELLED]]])
    logits = torch.zeros(1, 4, 2, 3)
    logits[:, 0] = 9.0  # a seen class never becomes a pseudo-label
    logits[:, 1, 0], logits[:, 3, 1] = 1.0, 1.0
    filled = fill_pseudo_labels(labels, logits, [1, 3])
    assert filled.tolist() == [[[0, 1, 255], [2, 3, 3]]]
    assert not filled.requires_grad
