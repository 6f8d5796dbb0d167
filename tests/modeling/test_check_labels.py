import pytest
import torch

from mta_clip.modeling.check_labels import check_labels


def test_classes_and_other_known_values_pass():
    check_labels(torch.tensor([[0, 3, 255], [1, -1, 2]]), 4, "labels", also=(255, -1))
    check_labels(torch.tensor([], dtype=torch.int64), 4, "labels")
    check_labels(torch.tensor([0, 10**6]), None, "labels")


@pytest.mark.parametrize(
    ("values", "num_classes", "also", "message"),
    [
        (
            [[0, 4, 255], [200, -1, 1]],
            4,
            (255,),
            r"here: labels \[-1, 4, 200\] are neither a class \(0\.\.3\) nor 255",
        ),
        ([0, 7], 4, (), r"here: label 7 is neither a class \(0\.\.3\); check MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
        ([-2, 7], None, (255,), r"here: label -2 is neither a class \(0\.\.the number of classes - 1\) nor 255"),
        (list(range(100, 120)), 4, (), r"labels \[100, .*, 109\] are"),
    ],
)
def test_others_are_named(values, num_classes, also, message):
    with pytest.raises(ValueError, match=message):
        check_labels(torch.tensor(values), num_classes, "here", also=also)
