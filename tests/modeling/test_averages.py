import pytest
import torch
from detectron2.utils import comm

from mta_clip.modeling.averages import mean_over_processes


def test_one_process_has_its_own_values():
    values = torch.tensor([3, 5])
    mean = mean_over_processes(values)
    assert mean.dtype == torch.float32 and mean.tolist() == [3, 5]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_the_mean_of_several_leaves_the_values_alone(dtype, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.add_(torch.tensor([1.0, 7.0])))
    values = torch.tensor([3, 5], dtype=dtype)
    assert mean_over_processes(values).tolist() == [1, 3]
    assert values.tolist() == [3, 5]
