import miniatures
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from mta_clip.config import get_cfg
from mta_clip.data import build_test_loader, build_train_loader, load_dataset_dicts
from mta_clip.data.build import TrainingStream


@pytest.fixture
def cfg(datasets_root):
    miniatures.make_miniature("camvid", datasets_root)
    cfg = get_cfg()
    cfg.SEED = 3
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("camvid_sem_seg_train",), ("camvid_sem_seg_val",)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 11
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.SIZE, cfg.INPUT.SIZE_DIVISIBILITY = (32, 40), [24, 24], 24
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


@pytest.fixture
def register():
    """Registers a dataset for one test."""
    names = []

    def add(name, dicts, **metadata):
        names.append(name)
        DatasetCatalog.register(name, lambda: dicts)
        MetadataCatalog.get(name).set(**{"stuff_classes": ["a"] * 11, "ignore_label": 255, "label_map": {}} | metadata)

    yield add
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def _batches(loader, count):
    return [batch for _, batch in zip(range(count), loader, strict=False)]


def _same(first, second):
    return all(
        torch.equal(a[key], b[key])
        for batch, other in zip(first, second, strict=True)
        for a, b in zip(batch, other, strict=True)
        for key in ("image", "sem_seg")
    )


def test_batches(cfg):
    (batch,) = _batches(build_train_loader(cfg), 1)
    assert len(batch) == 2
    assert batch[0]["image"].shape == (3, 24, 24)


def test_same_seed_same_batches_and_other_seed_others(cfg):
    first = _batches(build_train_loader(cfg), 4)
    assert _same(first, _batches(build_train_loader(cfg), 4))
    cfg.SEED = 4
    assert not _same(first, _batches(build_train_loader(cfg), 4))


def test_resumed_run_sees_what_an_uninterrupted_one_does(cfg):
    whole = _batches(build_train_loader(cfg), 6)
    assert _same(whole[4:], _batches(build_train_loader(cfg, start_iter=4), 2))


def test_workers_change_nothing(cfg):
    alone = _batches(build_train_loader(cfg), 3)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert _same(alone, _batches(build_train_loader(cfg), 3))


def test_random_state_of_the_model_is_left_alone(cfg):
    loader = iter(build_train_loader(cfg))
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    next(loader)
    assert np.random.rand() == expected


def test_stream_is_dealt_out_without_overlap():
    def take(count, **options):
        return [item for item, _ in zip(TrainingStream(size=7, seed=1, **options), range(count), strict=False)]

    whole = take(28, rank=0, world_size=1)
    assert [take(14, rank=rank, world_size=2) for rank in (0, 1)] == [whole[0::2], whole[1::2]]
    assert take(5, rank=1, world_size=2, start=6) == whole[7:17:2]
    for epoch in range(4):
        assert sorted(index for index, _ in whole[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert len({seed for _, seed in whole}) == 28


def test_test_loader_keeps_order_and_misses_none(cfg):
    found = [sample["file_name"] for batch in build_test_loader(cfg, "camvid_sem_seg_val") for sample in batch]
    assert found == [record["file_name"] for record in load_dataset_dicts(["camvid_sem_seg_val"])]


def test_several_datasets_follow_each_other(cfg):
    cfg.DATASETS.TRAIN = ("camvid_sem_seg_train", "camvid_sem_seg_val")
    build_train_loader(cfg)
    assert len(load_dataset_dicts(cfg.DATASETS.TRAIN)) == miniatures.TRAIN + miniatures.VAL


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 12, "NUM_CLASSES is 12, but 'camvid_sem_seg_train' has 11"),
        ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 0, "IGNORE_VALUE is 0, but the ignore label .* is 255"),
        ("DATASETS.TRAIN", (), "DATASETS.TRAIN is empty"),
        (
            "DATASETS.TRAIN",
            ("camvid_sem_seg_trian",),
            "'camvid_sem_seg_trian' is not registered",
        ),
        ("DATASETS.TRAIN", ("camvid_sem_seg_train", "shapes_sem_seg_train"), "their stuff_classes differ"),
        ("INPUT.DATASET_MAPPER_NAME", "mask_former_panoptic", "'mask_former_panoptic'"),
        ("TEST.KEEP_BEST", "sem_seg/mIoU_seen", "no class is unseen. Name the classes"),
    ],
)
def test_contradictions_are_found_before_training(cfg, key, value, message):
    cfg.merge_from_list([key, value])
    with pytest.raises((KeyError, ValueError), match=message):
        build_train_loader(cfg)


def test_batch_that_processes_cannot_share(cfg, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 4)
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 2, which 4 processes"):
        build_train_loader(cfg)


@pytest.mark.parametrize("parts", [0, 3])
def test_batch_that_cannot_be_split(cfg, parts):
    cfg.SOLVER.ACCUMULATE = parts
    with pytest.raises(ValueError, match=f"ACCUMULATE is {parts}, which is no number of equal parts of the 2 images"):
        build_train_loader(cfg)


def test_empty_dataset(cfg, register):
    register("empty_for_test", [])
    cfg.DATASETS.TRAIN = ("empty_for_test",)
    with pytest.raises(ValueError, match="'empty_for_test' has no images"):
        build_train_loader(cfg)
    with pytest.raises(ValueError, match="'empty_for_test' has no images"):
        build_test_loader(cfg, "empty_for_test")


def test_label_encodings_must_agree(cfg, register):
    register("one_for_test", [{}])
    register("other_for_test", [{}], label_map={0: 255})
    cfg.DATASETS.TRAIN = ("one_for_test", "other_for_test")
    with pytest.raises(ValueError, match="their label_map differ"):
        build_train_loader(cfg)
