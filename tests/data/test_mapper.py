import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from mta_clip.config import get_cfg
from mta_clip.data import LabelReader, SemanticDatasetMapper
from mta_clip.data.mapper import training_augmentations
from mta_clip.data.zero_shot import UNLABELLED, ClassSplit, VisibleLabels


@pytest.fixture
def record(tmp_path):
    """An image whose red channel is its label map; left half class 1, right half class 2, a corner ignored."""
    labels = np.ones((40, 60), np.uint8)
    labels[:, 30:] = 2
    labels[:8, :8] = 255
    Image.fromarray(np.stack([labels] * 3, axis=-1)).save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "image_id": "a",
    }


def _mapper(augmentations=(), **options):
    options = {"is_train": True, "label_reader": LabelReader(num_classes=3), **options}
    return SemanticDatasetMapper(augmentations=list(augmentations), **options)


def test_training_sample(record):
    before = dict(record)
    sample = _mapper()(record)
    assert record == before
    assert (sample["height"], sample["width"]) == (40, 60)
    assert (sample["image"].dtype, sample["sem_seg"].dtype) == (torch.uint8, torch.int64)
    torch.testing.assert_close(sample["image"][0].long(), sample["sem_seg"])
    assert sample["file_name"] == record["file_name"]


def test_image_and_labels_move_together(record):
    resize = T.ResizeShortestEdge([20, 70], sample_style="range", interp=Image.NEAREST)
    mapper = _mapper([resize, T.RandomCrop("absolute", (16, 16)), T.RandomFlip()])
    for _ in range(20):
        sample = mapper(record)
        torch.testing.assert_close(sample["image"][0].long(), sample["sem_seg"])
        assert sample["sem_seg"].shape == (16, 16)


@pytest.mark.parametrize("size", [(3, 2000), (2000, 3), (1, 1)])
def test_narrow_images_are_trained_and_tested_on(tmp_path, size):
    Image.fromarray(np.full((*size, 3), 7, np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.ones(size, np.uint8)).save(tmp_path / "labels.png")
    record = {"file_name": str(tmp_path / "image.png"), "sem_seg_file_name": str(tmp_path / "labels.png")}
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.CROP.SIZE = (96,), 300, (64, 64)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 300
    mapper = _mapper(training_augmentations(cfg, ignore_label=255), pad_to=64)
    for _ in range(4):  # mirrored or not
        assert mapper(record)["sem_seg"].shape == (64, 64)
    image = SemanticDatasetMapper(cfg, is_train=False)(record)["image"]
    assert 1 <= min(image.shape[1:]) <= max(image.shape[1:]) <= 300


def test_padding_fills_up_to_the_side_length(record):
    sample = _mapper(pad_to=50)(record)
    assert sample["image"].shape == (3, 50, 60)  # the longer side is not cut
    assert sample["sem_seg"].shape == (50, 60)
    assert (sample["image"][:, 40:] == 128).all()
    assert (sample["sem_seg"][40:] == 255).all()
    assert (sample["sem_seg"][:40] != 255).any()


def test_padding_with_the_mean_is_zero_after_normalisation(record):
    mean = get_cfg().MODEL.PIXEL_MEAN
    image = _mapper(pad_to=50, pad_color=mean)(record)["image"]
    normalised = image.to(torch.float32) - torch.tensor(mean).view(-1, 1, 1)
    assert (normalised[:, 40:] == 0).all()
    torch.testing.assert_close(image[:, :40], _mapper()(record)["image"].float())
    assert _mapper(pad_to=40, pad_color=mean)(record)["image"].dtype == torch.uint8  # nothing to pad


def test_padding_by_key(record):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("shapes_sem_seg_train",)
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.SIZE_DIVISIBILITY = False, (40,), 64
    for name, color in (("grey", [128] * 3), ("mean", cfg.MODEL.PIXEL_MEAN)):
        cfg.INPUT.PADDING = name
        torch.testing.assert_close(
            SemanticDatasetMapper(cfg, is_train=True)(record)["image"][:, -1, -1].float(), torch.tensor(color).float()
        )
    cfg.INPUT.PADDING = "zero"
    with pytest.raises(ValueError, match=r"INPUT\.PADDING is 'zero'; expected grey or mean"):
        SemanticDatasetMapper(cfg, is_train=True)


def test_labels_keep_their_values_when_resized(record):
    sample = _mapper([T.Resize((77, 31))])(record)
    assert set(sample["sem_seg"].unique().tolist()) == {1, 2, 255}


def test_many_classes(tmp_path, record):
    Image.fromarray(np.full((40, 60), 800, np.uint16)).save(record["sem_seg_file_name"])
    reader = LabelReader(num_classes=847, ignore_label=65535)
    sample = _mapper([T.Resize((33, 47))], label_reader=reader, pad_to=48)(record)
    assert set(sample["sem_seg"].unique().tolist()) == {800, 65535}


def test_testing_only_resizes_and_reads_no_labels(record):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 20, 100
    sample = SemanticDatasetMapper(cfg, is_train=False)(record | {"sem_seg_file_name": "no such file"})
    assert sample["image"].shape == (3, 20, 30)
    assert (sample["height"], sample["width"]) == (40, 60)
    assert "sem_seg" not in sample


def test_bgr(record, tmp_path):
    Image.new("RGB", (60, 40), (10, 20, 30)).save(tmp_path / "image.png")
    assert _mapper(image_format="BGR")(record)["image"][:, 0, 0].tolist() == [30, 20, 10]


def test_faults_of_files_are_named(record, tmp_path):
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "labels.png")
    with pytest.raises(ValueError, match=r"labels\.png.*4x3.*60x40"):
        _mapper()(record)
    Image.fromarray(np.full((40, 60), 7, np.uint8)).save(tmp_path / "labels.png")
    with pytest.raises(ValueError, match=r"labels\.png: label value 7"):
        _mapper()(record)
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"image\.png.*cannot be read"):
        _mapper()(record)


def test_training_needs_a_label_reader():
    with pytest.raises(ValueError, match="label_reader"):
        _mapper(label_reader=None)


def test_crop_avoids_windows_of_one_class(record):
    """Half of all windows of 12x12 show one class; with the constraint and its ten tries hardly any does."""
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.SIZE, cfg.INPUT.COLOR_AUG_SSD = (40,), [12, 12], False

    def single(max_area):
        cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = max_area
        mapper = _mapper(training_augmentations(cfg, ignore_label=255))
        crops = [mapper(record)["sem_seg"] for _ in range(100)]
        return sum(len(set(crop.unique().tolist()) - {255}) == 1 for crop in crops)

    assert single(1.0) > 50
    assert single(0.9) < 35


@pytest.mark.parametrize("flip, count", [("none", 3), ("horizontal", 4), ("vertical", 4)])
def test_augmentations_of_a_config(flip, count):
    cfg = get_cfg()
    cfg.INPUT.RANDOM_FLIP = flip
    kinds = [type(augmentation).__name__ for augmentation in training_augmentations(cfg, ignore_label=255)]
    expected = ["ResizeShortestEdge", "RandomCrop_CategoryAreaConstraint", "ColorAugSSDTransform", "RandomFlip"]
    assert kinds == expected[:count]


@pytest.mark.parametrize(("sizes", "sampling"), [((64,), "range"), ((64, 96, 128), "range"), ((64, 96), "random")])
def test_sizes_and_their_sampling_must_fit(sizes, sampling):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = sizes, sampling
    with pytest.raises(ValueError, match=r"MIN_SIZE_TRAIN_SAMPLING.*two ends of a range"):
        training_augmentations(cfg, ignore_label=255)


def test_unknown_flip():
    cfg = get_cfg()
    cfg.INPUT.RANDOM_FLIP = "diagonal"
    with pytest.raises(ValueError, match="'diagonal'"):
        training_augmentations(cfg, ignore_label=255)


def _visible(protocol, unseen=("b", "c")):
    return VisibleLabels(split=ClassSplit(["a", "b", "c", "d"], unseen), protocol=protocol, ignore_label=255)


@pytest.mark.parametrize(
    "protocol, values, same",
    [
        ("inductive", [1, 2, 255], True),  # hidden: it may as well be void
        ("transductive", [1, 2], True),  # it does not matter which unseen class it is
        ("transductive", [1, 2, 255], False),
        ("inductive_released", [1, 2, 255], False),
        ("supervised", [1, 2, 255], False),
    ],
)
def test_labels_of_unseen_classes_change_nothing(record, tmp_path, protocol, values, same):
    """Neither the label map nor the choice of a crop by its classes depends on what training may not see."""
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 25:] = 2
    labels[30:, :40] = 3
    scrambled = np.where(labels == 2, np.random.default_rng(0).choice(values, labels.shape), labels)
    paths = [tmp_path / "plain.png", tmp_path / "scrambled.png"]
    Image.fromarray(labels).save(paths[0])
    Image.fromarray(scrambled.astype(np.uint8)).save(paths[1])
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (16, 16), single_category_max_area=0.6, ignored_category=255)
    reader = LabelReader(num_classes=4)
    mapper, samples = _mapper([crop], label_reader=reader, visible_labels=_visible(protocol)), []
    for path in paths:
        np.random.seed(3)
        samples.append([mapper({**record, "sem_seg_file_name": str(path)}) for _ in range(10)])
    pairs = list(zip(*samples, strict=True))
    assert all(torch.equal(a[key], b[key]) for a, b in pairs for key in ("image", "sem_seg")) == same
    expected = {"inductive": {0, 3, 255}, "transductive": {0, 3, UNLABELLED}}.get(protocol, {0, 2, 3})
    assert {value for sample in samples[0] for value in sample["sem_seg"].unique().tolist()} == expected


@pytest.mark.parametrize("architecture", ["MTACLIP", "TagCLIP"])
@pytest.mark.parametrize(
    "protocol, shown",
    [
        ("inductive", [1, 255, 3, 4, 255]),
        ("transductive", [1, UNLABELLED, 3, 4, UNLABELLED]),
        ("inductive_released", [1, 2, 3, 4, 5]),
        ("supervised", [1, 2, 3, 4, 5]),
    ],
)
def test_the_protocol_decides_for_every_model(architecture, protocol, shown, record):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("shapes_sem_seg_train",), ()
    cfg.DATASETS.UNSEEN_CLASSES = ["yellow square", "green triangle"]
    cfg.DATASETS.PROTOCOL = protocol
    cfg.MODEL.TAGCLIP.TRUSTY_TARGET = "unseen"  # which labels are shown does not depend on the model's keys
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.ENABLED, cfg.INPUT.RANDOM_FLIP = (40,), False, "none"
    labels = np.repeat(np.arange(1, 6, dtype=np.uint8), 12)[None].repeat(40, 0)
    Image.fromarray(labels).save(record["sem_seg_file_name"])
    sample = SemanticDatasetMapper(cfg, is_train=True)(record)
    assert sample["sem_seg"][0, ::12].tolist() == shown
    assert SemanticDatasetMapper(cfg, is_train=False).visible_labels is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"UNSEEN_CLASSES": ["yelow square"]}, "did you mean 'yellow square'"),
        ({"PROTOCOL": "semi"}, "DATASETS.PROTOCOL must be one of"),
        ({"PROTOCOL": "transductive"}, "needs unseen classes"),
    ],
)
def test_bad_zero_shot_settings(changes, message):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("shapes_sem_seg_train",)
    for key, value in changes.items():
        setattr(cfg.DATASETS, key, value)
    with pytest.raises(ValueError, match=message):
        SemanticDatasetMapper(cfg, is_train=True)
