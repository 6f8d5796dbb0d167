"""Seeds each training step by its iteration, so that its random numbers do not depend on what ran before.

A resumed run therefore draws exactly what the uninterrupted run would have drawn, whatever was evaluated, logged or
prefetched in between. The data stream is seeded in the same way (mta_clip/data/build.py).
"""

import random

import numpy as np
import torch


def seed_step(seed: int, iteration: int, rank: int) -> None:
    """Seeds Python, NumPy and torch (CPU and all GPUs) for one iteration in one process.

    Args:
        seed: of the run; like the others at least 0.
        iteration: about to run, from 0.
        rank: of the process.

    Raises:
        ValueError: a negative argument.
    """
    derived = int(np.random.SeedSequence((seed, iteration, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.manual_seed(derived)
