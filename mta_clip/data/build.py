"""Loaders for training and testing, from Detectron2's parts.

What a training run sees depends only on the seed and the iteration: sample number `n` of the stream is always the same
image with the same augmentation, whatever the number of processes or loader workers, and a run resumed at iteration `i`
continues where it stopped.
"""

import contextlib
import difflib
import itertools
import logging
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog, build_detection_test_loader
from detectron2.data.build import build_batch_data_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from .mapper import SemanticDatasetMapper
from .model_classes import with_classes
from .zero_shot import visible_labels

logger = logging.getLogger(__name__)

_MUST_AGREE = ("stuff_classes", "ignore_label", "label_map")  # metadata of datasets that are trained on together


class TrainingStream(Sampler[tuple[int, int]]):
    """An endless shuffled stream of (index, seed of the augmentation), dealt out to the processes in turn.

    Args:
        size: number of images.
        seed: the same in all processes.
        start: number of samples, over all processes, to skip at the beginning of the stream.
        rank: number of this process; default: Detectron2's.
        world_size: number of processes; default: Detectron2's.
    """

    def __init__(
        self, *, size: int, seed: int, start: int = 0, rank: int | None = None, world_size: int | None = None
    ) -> None:
        self.size = size
        self.seed = seed
        self.start = start
        self.rank = comm.get_rank() if rank is None else rank
        self.world_size = comm.get_world_size() if world_size is None else world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return itertools.islice(self._stream(), self.start + self.rank, None, self.world_size)

    def _stream(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            order = torch.randperm(self.size, generator=generator)
            seeds = torch.randint(2**31, (self.size,), generator=generator)
            yield from zip(order.tolist(), seeds.tolist(), strict=True)


class SeededMapDataset(Dataset):
    """Maps dataset dicts to samples, each with the random state of Python and NumPy that the sampler chose for it."""

    def __init__(self, dataset: DatasetFromList, mapper: Callable[[dict], dict]) -> None:
        self.dataset = dataset
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> dict:
        index, seed = item
        with _seeded(seed):
            return self.mapper(self.dataset[index])


def build_train_loader(cfg: CfgNode, *, start_iter: int = 0, seed: int | None = None) -> DataLoader:
    """The endless loader over DATASETS.TRAIN; each batch holds this process's share of SOLVER.IMS_PER_BATCH samples.

    Args:
        start_iter: iteration at which the run starts; the batches before it are skipped.
        seed: of the stream, the same in all processes; default: SEED, or a random one if SEED is negative.

    Raises:
        KeyError: a dataset is unknown.
        ValueError: a dataset is empty, datasets or the config contradict each other, or the batch cannot be
            divided among the processes.
    """
    check_training_config(cfg)
    dicts = load_dataset_dicts(cfg.DATASETS.TRAIN)
    if seed is None:
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    logger.info("Training on %d images of %s, data seed %d", len(dicts), ", ".join(cfg.DATASETS.TRAIN), seed)
    return build_batch_data_loader(
        SeededMapDataset(DatasetFromList(dicts, copy=False), SemanticDatasetMapper(cfg, is_train=True)),
        TrainingStream(size=len(dicts), seed=seed, start=start_iter * cfg.SOLVER.IMS_PER_BATCH),
        cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def build_test_loader(cfg: CfgNode, name: str) -> DataLoader:
    """A loader over this process's share of a dataset, one image per batch, in order.

    Raises:
        KeyError: no dataset of that name is registered.
        ValueError: the dataset is empty.
    """
    return build_detection_test_loader(
        load_dataset_dicts([name]),
        mapper=SemanticDatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def load_dataset_dicts(names: Sequence[str]) -> list[dict]:
    """The dataset dicts of one or several datasets, joined in the order of the names.

    Raises:
        KeyError: a name is not registered.
        ValueError: `names` is empty, or a dataset is.
    """
    if not names:
        raise ValueError("No dataset is named: DATASETS.TRAIN (or TEST) is empty.")
    dicts = []
    for name in names:
        check_registered(name)
        found = DatasetCatalog.get(name)
        if not found:
            raise ValueError(f"The dataset {name!r} has no images. Is it where DETECTRON2_DATASETS points to?")
        dicts.extend(found)
    return dicts


def check_registered(name: str) -> None:
    """Raises a KeyError that suggests similar names, if no dataset of this name is registered."""
    known = DatasetCatalog.list()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"Did you mean {', '.join(close)}?" if close else f"Known: {', '.join(sorted(known))}."
        raise KeyError(f"the dataset {name!r} is not registered; DATASETS.FOLDERS can describe it. {hint}")


def check_training_config(cfg: CfgNode) -> None:
    """Checks that the datasets of DATASETS.TRAIN exist and fit each other, the config and the number of processes.

    Raises:
        KeyError: a dataset is not registered.
        ValueError: they do not fit.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise ValueError("DATASETS.TRAIN is empty: name at least one dataset to train on.")
    if cfg.SOLVER.IMS_PER_BATCH % comm.get_world_size():
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which {comm.get_world_size()} processes cannot "
            "share equally. Make it a multiple of their number."
        )
    if cfg.SOLVER.ACCUMULATE < 1 or cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size() % cfg.SOLVER.ACCUMULATE:
        raise ValueError(
            f"SOLVER.ACCUMULATE is {cfg.SOLVER.ACCUMULATE}, which is no number of equal parts of the "
            f"{cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()} images that a process has per step "
            "(SOLVER.IMS_PER_BATCH / processes)."
        )
    for name in names:
        check_registered(name)
    if cfg.INPUT.DATASET_MAPPER_NAME != "mask_former_semantic":
        raise ValueError(
            f"INPUT.DATASET_MAPPER_NAME is {cfg.INPUT.DATASET_MAPPER_NAME!r}; there is only mask_former_semantic."
        )
    cfg = with_classes(cfg)
    first = MetadataCatalog.get(names[0])
    for name, key in itertools.product(names[1:], _MUST_AGREE):
        if MetadataCatalog.get(name).get(key) != first.get(key):
            raise ValueError(f"{names[0]!r} and {name!r} cannot be trained on together: their {key} differ.")
    if len(first.stuff_classes) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}, but {names[0]!r} has "
            f"{len(first.stuff_classes)} classes. Leave it out, or set it to that number."
        )
    if first.ignore_label != cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE}, but the ignore label of "
            f"{names[0]!r} is {first.ignore_label}. Leave it out, or set it to that value."
        )
    visible_labels(cfg, first.stuff_classes, first.ignore_label)  # refuses names of no class
    best = cfg.TEST.KEEP_BEST
    if best.endswith(("mIoU_seen", "mIoU_unseen", "hIoU")) and not cfg.DATASETS.UNSEEN_CLASSES:
        raise ValueError(
            f"TEST.KEEP_BEST is {best!r}, but no class is unseen. Name the classes that get no labels in training, "
            "such as DATASETS.UNSEEN_CLASSES \"['fence']\"; or keep the best by sem_seg/mIoU."
        )


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the generators of Detectron2's augmentations, and restores them, as the model may draw from them too."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
