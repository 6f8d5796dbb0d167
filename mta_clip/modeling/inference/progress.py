"""A progress bar within one image, where one takes long."""

from detectron2.utils import comm
from tqdm import tqdm

DELAY = 3.0  # seconds of work on an image from which on a bar is shown


class _Bar(tqdm):
    monitor_interval = 0  # no thread beside: with one, the threads of PyTorch's CPU operators can take twice as long


def progress_bar(total: int, unit: str) -> tqdm:
    """A bar that appears in the main process after DELAY seconds and vanishes at the end.

    Args:
        total: number of units.
        unit: what is counted, such as "window".
    """
    return _Bar(total=total, unit=unit, leave=False, delay=DELAY, disable=not comm.is_main_process())
