import random

import numpy as np
import pytest
import torch

from mta_clip.engine.seeding import seed_step


def draws(*arguments) -> tuple:
    seed_step(*arguments)
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_a_step_draws_the_same_whatever_was_drawn_before():
    first = draws(7, 5, 1)
    torch.rand(100), np.random.rand(100), random.random()
    assert draws(7, 5, 1) == first


@pytest.mark.parametrize("other", [(8, 5, 1), (7, 6, 1), (7, 5, 2), (5, 7, 1)], ids=["seed", "step", "rank", "swapped"])
def test_seed_step_and_process_each_matter(other):
    assert not {*draws(7, 5, 1)} & {*draws(*other)}


def test_large_numbers_fit_every_generator():
    draws(2**40, 10**9, 10**4)
    with pytest.raises(ValueError, match="non-negative"):
        seed_step(-1, 0, 0)
