"""Randomness of a training step as a function of where it stands instead of what ran before.

A resumed run therefore repeats exactly what the uninterrupted run would have drawn, whatever was evaluated, logged or
prefetched in between. The data stream is seeded the same way (mta_clip/data/build.py).
"""

import random

import numpy as np
import torch


def seed_step(seed: int, iteration: int, rank: int) -> None:
    """Seeds Python, NumPy and torch (CPU and all GPUs) for one iteration in one process; all arguments >= 0."""
    derived = int(np.random.SeedSequence((seed, iteration, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.manual_seed(derived)
