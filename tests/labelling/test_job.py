import dataclasses
import fcntl
import json
import zlib
from types import SimpleNamespace

import pyarrow.parquet
import pytest
from PIL import Image
from toy_labelling import DEADLY, load_toy

from mta_clip.config import get_cfg
from mta_clip.labelling import inputs
from mta_clip.labelling.index import Count
from mta_clip.labelling.job import INDEX, Engine, label_images, settings_of, start_labeller
from mta_clip.labelling.worker import Labeller, Task


class HereEngine:
    """Labels in this process; raises after a number of blocks."""

    def __init__(self, blocks=-1):
        self.left, self.labelled = blocks, []

    def run(self, task, blocks):
        labeller = Labeller(task, "cpu")
        for block in blocks:
            if not self.left:
                raise InterruptedError
            self.left -= 1
            self.labelled += [item.name for item in block.inputs]
            yield labeller(block)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """30 images in the same blocks wherever they are."""
    of_name = SimpleNamespace(crc32=lambda path: zlib.crc32(path.rpartition(b"/")[2]))
    monkeypatch.setattr(inputs, "zlib", of_name)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def task(tmp_path):
    return Task(load_toy, str(tmp_path / "out"))


def save(path, value=20):
    Image.new("RGB", (6, 4), (value, value, value)).save(path)


def label(source, task, engine, settings=None, **options):
    return label_images(str(source), task, engine, settings=settings or {"names": None}, block_size=4, **options)


def rows_of(task):
    return pyarrow.parquet.read_table(f"{task.output}/{INDEX}").to_pylist()


def test_interrupted_and_continued(photos, task):
    first, second, third = HereEngine(3), HereEngine(), HereEngine()
    with pytest.raises(InterruptedError):
        label(photos, task, first)
    assert label(photos, task, second) == label(photos, task, third) == Count(30, 0)
    assert sorted(first.labelled + second.labelled) == sorted(path.name for path in photos.iterdir())
    assert third.labelled == []
    assert [row["path"] for row in rows_of(task)] == sorted(map(str, photos.iterdir()))


def test_images_that_come_and_go(photos, task):
    task = dataclasses.replace(task, format="webdataset")
    label(photos, task, HereEngine())
    save(photos / "055.png")
    (photos / "20.png").unlink()
    engine = HereEngine()
    assert label(photos, task, engine) == Count(30, 0)
    assert "055.png" in engine.labelled and len(engine.labelled) < 30
    rows = rows_of(task)
    assert [row["path"] for row in rows] == sorted(map(str, photos.iterdir()))
    shards = {row["label"].partition("#")[0] for row in rows}
    assert {f"labels/{path.name}" for path in photos.parent.glob("out/labels/*")} == shards


def test_failed_images_are_repeated_on_demand(photos, task):
    (photos / "07.png").write_text("broken")
    assert label(photos, task, HereEngine()) == Count(30, 1)
    save(photos / "07.png")
    assert label(photos, task, HereEngine()) == Count(30, 1)
    engine = HereEngine()
    assert label(photos, task, engine, retry_failed=True) == Count(30, 0)
    assert "07.png" in engine.labelled and len(engine.labelled) <= 16


def test_a_folder_belongs_to_one_job(photos, task):
    label(photos, task, HereEngine())
    with pytest.raises(ValueError, match=r"with other settings \(names\): choose another"):
        label(photos, task, HereEngine(), {"names": ["sky"]})
    with open(f"{task.output}/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another run"):
            label(photos, task, HereEngine())


def test_label_maps_are_no_images(photos):
    task = Task(load_toy, str(photos / "out"))
    for source in (photos, photos / "**" / "*.png"):
        assert label(source, task, HereEngine()) == Count(30, 0)


def test_settings_are_those_that_labels_depend_on(tmp_path):
    def settings(weights, *overrides):
        cfg = get_cfg()
        cfg.merge_from_list(["MODEL.WEIGHTS", str(weights), *overrides])
        return json.dumps(settings_of(cfg, names=["sky"]))

    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(content)
    assert settings(tmp_path / "a") == settings(tmp_path / "b", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", "x")
    assert (
        len({settings(tmp_path / "a"), settings(tmp_path / "c"), settings(tmp_path / "a", "INPUT.FORMAT", "BGR")}) == 3
    )


def test_each_process_has_its_gpu(task):
    devices = []

    def load(device):
        devices.append(device)
        return load_toy(device)

    for engine, index in ((Engine(device="cuda"), 3), (Engine(), 3)):
        start_labeller(dataclasses.replace(task, load=load), engine, index)
    assert devices == ["cuda:3", "cpu"]


@pytest.mark.slow
def test_processes_that_die_lose_and_repeat_nothing(photos, task):
    save(photos / "13.png", DEADLY)
    assert label(photos, task, Engine(workers=2)) == Count(30, 1)
    rows = rows_of(task)
    assert [row["path"] for row in rows] == sorted(map(str, photos.iterdir()))
    assert [row["path"] for row in rows if row["status"] == "failed"] == [str(photos / "13.png")]
