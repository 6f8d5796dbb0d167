import pytest
import torch

from mta_clip.engine.devices import check_devices


def test_a_cpu_runs_any_number_of_processes():
    check_devices("cpu", 8)


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "message"),
    [
        ("nonsense", 1, 1, "MODEL.DEVICE is 'nonsense'; expected a device"),
        ("cuda", 0, 1, "MODEL.DEVICE is cuda, but PyTorch .* finds no GPU here. Set MODEL.DEVICE cpu"),
        ("cuda", 2, 3, "3 processes per machine need 3 GPUs"),
        ("cuda:1", 1, 1, r"\(MODEL.DEVICE cuda:1\), this machine has 1"),
    ],
)
def test_what_is_not_there(device, gpus, processes, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=message):
        check_devices(device, processes)


def test_enough_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices("cuda", 2)
    check_devices("cuda:1")
