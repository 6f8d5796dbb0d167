import pytest
import torch

from mta_clip.modeling.criterion import present_labels, targets_from_sem_seg


def test_one_mask_per_class_present_and_padding_is_ignored():
    sem_seg = torch.tensor([[2, 2, 255], [0, 2, 255]])
    (target,) = targets_from_sem_seg([sem_seg], (4, 4), ignore_label=255, num_classes=3)
    assert target["labels"].tolist() == [0, 2]
    assert target["masks"].dtype == torch.bool and target["masks"].shape == (2, 4, 4)
    assert target["masks"][0].nonzero().tolist() == [[1, 0]]
    assert target["masks"][1].nonzero().tolist() == [[0, 0], [0, 1], [1, 1]]
    expected = torch.ones(4, 4, dtype=torch.bool)
    expected[:2, :2] = False
    assert torch.equal(target["ignored"], expected)


def test_all_ignored_gives_no_mask():
    (target,) = targets_from_sem_seg([torch.full((3, 5), 255)], (4, 8), ignore_label=255, num_classes=3)
    assert target["labels"].shape == (0,) and target["labels"].dtype == torch.int64
    assert target["masks"].shape == (0, 4, 8) and target["ignored"].all()


def test_the_ignore_label_may_be_any_value():
    sem_seg = torch.tensor([[-1, 0]], dtype=torch.int32)
    (target,) = targets_from_sem_seg([sem_seg], (1, 2), ignore_label=-1, num_classes=1)
    assert target["labels"].tolist() == [0] and target["ignored"].tolist() == [[True, False]]
    (target,) = targets_from_sem_seg([torch.tensor([[65535, 7]])], (1, 2), ignore_label=65535)
    assert target["labels"].tolist() == [7]


def test_images_of_different_sizes():
    targets = targets_from_sem_seg([torch.zeros(2, 3).long(), torch.ones(4, 2).long()], (4, 4), 255, 2)
    assert [target["masks"].sum().item() for target in targets] == [6, 8]
    assert [target["labels"].tolist() for target in targets] == [[0], [1]]


@pytest.mark.parametrize(("value", "named"), [(3, "label 3"), (254, "label 254"), (-2, "label -2")])
def test_a_label_out_of_range_is_refused(value, named):
    sem_segs = [torch.zeros(2, 2).long(), torch.tensor([[0, value]])]
    with pytest.raises(ValueError, match=rf"image 1 .*{named}.*0\.\.2.*255"):
        targets_from_sem_seg(sem_segs, (2, 2), ignore_label=255, num_classes=3)


def test_a_negative_label_is_refused_without_a_number_of_classes():
    with pytest.raises(ValueError, match="label -1"):
        targets_from_sem_seg([torch.tensor([[-1]])], (1, 1), ignore_label=255)


def test_a_label_map_that_does_not_fit_is_refused():
    for shape, size in (((5, 4), (4, 4)), ((5, 4), (4, 8)), ((4, 5), (8, 4))):
        message = "{}x{}, larger than the padded images {}x{}".format(*shape, *size)
        with pytest.raises(ValueError, match=message):
            targets_from_sem_seg([torch.zeros(shape).long()], size, 255)
    with pytest.raises(ValueError, match="integer"):
        targets_from_sem_seg([torch.zeros(4, 4)], (4, 4), 255)
    with pytest.raises(ValueError, match="label map"):
        targets_from_sem_seg([torch.zeros(1, 4, 4).long()], (4, 4), 255)


def test_labels_that_occur():
    labels = present_labels(torch.tensor([[[4, 0], [4, 7]]], dtype=torch.uint8), ignore_label=7)
    assert labels.tolist() == [0, 4] and labels.dtype == torch.int64
    with pytest.raises(ValueError, match=r"the mask of a\.png: label 4"):
        present_labels(torch.tensor([4]), 7, num_classes=3, where="the mask of a.png")
