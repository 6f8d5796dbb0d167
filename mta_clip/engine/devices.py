"""Checks of MODEL.DEVICE before any work."""

import torch


def check_devices(device: str, processes: int = 1) -> None:
    """Checks that this machine has the devices of a job.

    Args:
        device: MODEL.DEVICE.
        processes: on this machine; on GPUs, each has its own.

    Raises:
        ValueError: no such device, or fewer GPUs than processes.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE is {device!r}; expected a device of PyTorch, such as cpu or cuda") from error
    if wanted.type != "cuda":
        return
    available = torch.cuda.device_count()
    if not available:
        raise ValueError(
            f"MODEL.DEVICE is {device}, but PyTorch {torch.__version__} finds no GPU here. Set MODEL.DEVICE cpu, or "
            "install a GPU driver and a PyTorch built for it (python -m torch.utils.collect_env shows both)"
        )
    if processes > available or (wanted.index or 0) >= available:
        raise ValueError(
            f"{processes} processes per machine need {processes} GPUs (MODEL.DEVICE {device}), this machine has "
            f"{available}: lower --num-gpus, or set MODEL.DEVICE cpu for processes on the CPU (gloo)"
        )
