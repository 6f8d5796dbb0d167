"""Training batches as a function of (seed, iteration), for any number of processes and loader workers.

The global order of samples is one infinite sequence; position p of it names an image and the random state of its
augmentation. Iteration t consumes positions [t * n, (t + 1) * n) for n images per batch, process r of R those with
p % R == r. So a resumed run continues where it stopped without replaying anything, and one process sees the same
images, augmented equally, as several processes together.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from ..seeding import ORDER, SAMPLE, derive_seed, seed_everything


class ResumableSampler(Sampler):
    """Infinite (position, index) pairs of this process, shuffled anew in every epoch."""

    def __init__(self, *, size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1) -> None:
        """
        Args:
            size: number of images in the dataset.
            seed: the same in all processes.
            start: position to begin with, iteration * images per (global) batch.
        """
        if size < 1:
            raise ValueError("the training dataset is empty")
        self._size = size
        self._seed = seed
        self._first = start + rank
        self._stride = world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, []
        position = self._first
        while True:
            if position // self._size != epoch:
                epoch = position // self._size
                generator = torch.Generator().manual_seed(derive_seed(self._seed, ORDER, epoch))
                order = torch.randperm(self._size, generator=generator).tolist()
            yield position, order[position % self._size]
            position += self._stride


class SeededMapDataset(Dataset):
    """Maps dataset dicts with the random state of their position in the global order."""

    def __init__(self, dataset: Any, mapper: Callable[[dict], dict], seed: int) -> None:
        self._dataset = dataset
        self._mapper = mapper
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        position, index = key
        seed_everything(self._seed, SAMPLE, position)
        return self._mapper(self._dataset[index])


def build_resumable_loader(
    dataset: Any,
    *,
    mapper: Callable[[dict], dict],
    total_batch_size: int,
    seed: int,
    start_iteration: int = 0,
    num_workers: int = 0,
) -> DataLoader:
    """An infinite loader of `list[dict]`, this process' share of each global batch.

    Images are not grouped by aspect ratio: training crops make them equal in size, and groups would make a batch
    depend on the batches before it.

    Args:
        dataset: a list of dataset dicts or any map-style dataset of them.
        total_batch_size: images per iteration in all processes together.
        seed: the same in all processes; decides order and augmentation.
        start_iteration: iterations that a resumed run has done.

    Raises:
        ValueError: empty dataset, or a batch that the processes cannot share equally.
    """
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {total_batch_size}, expected a positive multiple of the {world_size} processes"
        )
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    sampler = ResumableSampler(
        size=len(dataset),
        seed=seed,
        start=start_iteration * total_batch_size,
        rank=comm.get_rank(),
        world_size=world_size,
    )
    return DataLoader(
        SeededMapDataset(dataset, mapper, seed),
        batch_sampler=BatchSampler(sampler, total_batch_size // world_size, drop_last=True),
        num_workers=num_workers,
        collate_fn=_as_list,
    )


def _as_list(batch: list[dict]) -> list[dict]:
    return batch  # a named function, as spawned workers need
