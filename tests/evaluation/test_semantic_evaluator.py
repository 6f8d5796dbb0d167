import json
import logging
import math
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from PIL import Image

from mta_clip.config import get_cfg
from mta_clip.data import LabelReader
from mta_clip.evaluation import SemanticEvaluator, build_evaluator

NAMES = ("sky", "road", "cat")
SIZE = (24, 32)


def write_labels(path, labels):
    Image.fromarray(np.asarray(labels, np.uint8)).save(path)
    return str(path)


@pytest.fixture
def dataset(tmp_path):
    """Five label maps with an ignored corner; the images themselves are not needed."""
    rng = np.random.default_rng(0)
    files = {}
    for index in range(5):
        labels = rng.integers(0, 3, (SIZE[0] // 4, SIZE[1] // 4)).repeat(4, 0).repeat(4, 1)
        labels[:4, :4] = 255
        files[f"{tmp_path}/images/{index}.jpg"] = write_labels(tmp_path / f"{index}.png", labels)
    return files


def make_evaluator(label_files, **options):
    reader = LabelReader(num_classes=len(NAMES), ignore_label=255)
    return SemanticEvaluator(class_names=NAMES, label_reader=reader, label_files=label_files, **options)


def scores(seed, size=SIZE, classes=3):
    return {"sem_seg": torch.randn(classes, *size, generator=torch.Generator().manual_seed(seed))}


def feed(evaluator, label_files, images=None):
    for seed, image in enumerate(label_files):
        if images is None or image in images:
            evaluator.process([{"file_name": image}], [scores(seed)])
    return evaluator.evaluate()


def test_a_perfect_prediction_is_100_percent(dataset):
    evaluator = make_evaluator(dataset, boundary_dilation=0.02, unseen_classes=["cat"])
    for image, file in dataset.items():
        labels = np.array(Image.open(file)).astype(np.int64)
        evaluator.process([{"file_name": image}], [{"labels": torch.from_numpy(np.where(labels == 255, 0, labels))}])
    results = evaluator.evaluate()["sem_seg"]
    assert set(results.values()) == {100.0}
    assert {"mIoU", "fwIoU", "mACC", "pACC", "boundary_mIoU", "mIoU_seen", "mIoU_unseen", "hIoU"} <= set(results)
    assert {f"{kind}-{name}" for kind in ("IoU", "ACC", "BoundaryIoU") for name in NAMES} <= set(results)


def test_scores_and_their_labels_give_the_same(dataset):
    from_scores, from_labels = make_evaluator(dataset), make_evaluator(dataset)
    for seed, image in enumerate(dataset):
        from_scores.process([{"file_name": image}], [scores(seed)])
        from_labels.process([{"file_name": image}], [{"labels": scores(seed)["sem_seg"].argmax(0)}])
    assert from_scores.evaluate() == from_labels.evaluate()


def test_batches_and_reset(dataset):
    evaluator = make_evaluator(dataset)
    expected = feed(evaluator, dataset)
    evaluator.reset()
    evaluator.process([{"file_name": i} for i in dataset], [scores(s) for s in range(len(dataset))])
    assert evaluator.evaluate() == expected


def test_reports(dataset, tmp_path, caplog):
    out = tmp_path / "out"
    with caplog.at_level(logging.INFO):
        results = feed(make_evaluator(dataset, output_dir=out, save_predictions="png"), dataset)["sem_seg"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == {f"sem_seg/{name}": value for name, value in results.items()}
    assert 0 < metrics["sem_seg/mIoU"] < 100
    assert (out / "per_class.csv").is_file() and (out / "confusion_matrix.png").is_file()
    assert len(list((out / "predictions").glob("*.png"))) == 5
    first = np.array(Image.open(out / "predictions" / "0.png"))
    assert np.array_equal(first, scores(0)["sem_seg"].argmax(0).numpy())
    assert "5 images" in caplog.text and "mIoU" in caplog.text and "road" in caplog.text


def test_run_length_predictions(dataset, tmp_path):
    feed(make_evaluator(dataset, output_dir=tmp_path / "out", save_predictions="rle"), dataset)
    segments = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {segment["file_name"] for segment in segments} == set(dataset)


@pytest.mark.parametrize("saved", ["png", "rle"])
def test_files_that_cannot_be_written_cost_no_result(dataset, tmp_path, caplog, saved):
    blocked = tmp_path / "out"
    blocked.write_text("a file where the folder should be")
    expected = feed(make_evaluator(dataset), dataset)
    assert feed(make_evaluator(dataset, output_dir=blocked, save_predictions=saved), dataset) == expected
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 4  # predictions (once, not per image), metrics, table, picture
    assert all("out" in message for message in errors)


def test_an_absent_class_is_nan_and_left_out(tmp_path):
    files = {"a.jpg": write_labels(tmp_path / "a.png", np.zeros(SIZE))}
    evaluator = make_evaluator(files, output_dir=tmp_path / "out")
    evaluator.process([{"file_name": "a.jpg"}], [{"labels": torch.zeros(SIZE, dtype=torch.int64)}])
    results = evaluator.evaluate()["sem_seg"]
    assert results["mIoU"] == 100.0 and math.isnan(results["IoU-cat"])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["sem_seg/IoU-cat"] is None


def test_label_out_of_range_names_file_and_value(tmp_path):
    files = {"a.jpg": write_labels(tmp_path / "bad.png", np.full(SIZE, 3))}
    with pytest.raises(ValueError, match=r"bad\.png.* 3 "):
        make_evaluator(files).process([{"file_name": "a.jpg"}], [scores(0)])


def test_label_of_another_size(tmp_path):
    files = {"a.jpg": write_labels(tmp_path / "bad.png", np.zeros((10, 12)))}
    with pytest.raises(ValueError, match=r"32x24.*bad\.png.*12x10"):
        make_evaluator(files).process([{"file_name": "a.jpg"}], [scores(0)])


def test_missing_and_unreadable_labels_are_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    evaluator = make_evaluator({"a.jpg": str(tmp_path / "gone.png"), "b.jpg": str(tmp_path / "broken.png")})
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        evaluator.process([{"file_name": "a.jpg"}], [scores(0)])
    with pytest.raises(ValueError, match=r"broken\.png"):
        evaluator.process([{"file_name": "b.jpg"}], [scores(0)])


def test_wrong_predictions_are_refused(dataset):
    evaluator, image = make_evaluator(dataset), next(iter(dataset))
    nan = scores(0)["sem_seg"]
    nan[1, 3, 3] = float("nan")
    for output, message in [
        ({"sem_seg": nan}, "NaN at 1 pixels"),
        (scores(0, classes=4), "scores 4 classes"),
        ({"labels": torch.full(SIZE, 3)}, "predicted labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluator.process([{"file_name": image}], [output])
    with pytest.raises(ValueError, match=r"other\.jpg"):
        evaluator.process([{"file_name": "other.jpg"}], [scores(0)])


def test_nothing_to_evaluate(dataset):
    with pytest.raises(ValueError, match="no image"):
        make_evaluator(dataset).evaluate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unseen_classes": ["dog"]}, "dog"),
        ({"save_predictions": "jpg"}, "jpg"),
    ],
)
def test_wrong_options(dataset, options, message):
    with pytest.raises(ValueError, match=message):
        make_evaluator(dataset, **options)


def evaluate_in_process(rank, processes, port, label_files, out):
    torch.set_num_threads(1)  # a forked process must not use the parent's thread pool
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=processes, rank=rank)
    images = list(label_files)
    mine = [images[index] for index in InferenceSampler(len(images))]
    assert mine or rank  # the last of many has none
    options = {"output_dir": out, "save_predictions": "rle", "boundary_dilation": 0.02}
    results = feed(make_evaluator(label_files, **options), label_files, mine)
    assert (results is not None) == comm.is_main_process()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_give_the_same_as_one(dataset, tmp_path, processes):
    assert len(dataset) % processes  # shares are unequal, and the last of four is empty
    feed(make_evaluator(dataset, output_dir=tmp_path / "one", save_predictions="rle", boundary_dilation=0.02), dataset)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked, not spawned: the processes need not import everything again.
    arguments = processes, port, dataset, tmp_path / "two"
    mp.start_processes(evaluate_in_process, args=arguments, nprocs=processes, start_method="fork")
    for name in ("metrics.json", "per_class.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    one, two = (json.loads((tmp_path / run / "predictions.json").read_text()) for run in ("one", "two"))
    assert len(one) == len(two) and all(segment in two for segment in one)


@pytest.fixture
def registered(dataset):
    name = "evaluator_test"
    DatasetCatalog.register(name, lambda: [{"file_name": i, "sem_seg_file_name": f} for i, f in dataset.items()])
    MetadataCatalog.get(name).set(stuff_classes=list(NAMES), ignore_label=255, evaluator_type="sem_seg")
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_built_from_a_config(registered, dataset, tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.DATASETS.TEST = (registered,)
    cfg.DATASETS.UNSEEN_CLASSES = ["cat"]
    cfg.TEST.SEM_SEG.BOUNDARY_IOU = True
    results = feed(build_evaluator(cfg, registered), dataset)["sem_seg"]
    assert "boundary_mIoU" in results and "hIoU" in results
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert build_evaluator(cfg, registered, tmp_path / "x").output_dir == tmp_path / "x"
