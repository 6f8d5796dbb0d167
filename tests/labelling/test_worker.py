import os

import fsspec
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from toy_labelling import DEADLY, load_toy

from mta_clip.labelling.index import Count
from mta_clip.labelling.inputs import Block, Input
from mta_clip.labelling.worker import LETHAL, Labeller, Task, batches_by_size, rows_file


def save(folder, name, value=20, size=(6, 4)):
    picture = np.full((size[1], size[0], 3), value, np.uint8)
    picture[:, 3:] = 220
    Image.fromarray(picture).save(folder / name)
    return Input(str(folder / name), name)


@pytest.fixture
def labeller(tmp_path):
    return Labeller(Task(load_toy, str(tmp_path / "out"), batch_size=2), "cpu")


def rows_of(labeller, block="block"):
    return pyarrow.parquet.read_table(rows_file(labeller.task.output, block)).to_pylist()


def test_label_maps_and_rows(labeller, tmp_path):
    items = [save(tmp_path, "a.png"), save(tmp_path, "b.png", size=(8, 4)), save(tmp_path, "c.png")]
    assert labeller(Block("block", tuple(items))) == Count(3, 0)
    rows = rows_of(labeller)
    assert [row["path"] for row in rows] == [item.path for item in items]
    shares = pytest.approx({"dark": 3 / 8, "bright": 5 / 8})
    assert dict(rows[1]["shares"]) == shares and rows[1]["mean_confidence"] == 0.5
    assert (rows[1]["height"], rows[1]["width"], rows[1]["status"], rows[1]["error"]) == (4, 8, "ok", None)
    labels = np.array(Image.open(tmp_path / "out" / rows[1]["label"]))
    assert labels.shape == (4, 8) and not labels[:, :3].any() and labels[:, 3:].all()
    assert labeller._model.batches[1:] == [[(4, 6), (4, 6)], [(4, 8)]]


def test_failures_are_rows(labeller, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    broken = [Input(str(tmp_path / name), name) for name in ("text.png", "gone.png")]
    refused, good = save(tmp_path, "refused.png", 77), save(tmp_path, "good.png")
    too_long = save(tmp_path, "long.png")._replace(name="x" * 260)
    remote = Input("memory://nowhere/a.png", "a.png")
    assert labeller(Block("block", (*broken, refused, good, too_long, remote))) == Count(6, 5)
    errors = [row["error"] for row in rows_of(labeller)]
    for error, text in zip(
        errors, ("no image format", "does not exist", "77", None, "too long", "nowhere"), strict=True
    ):
        assert error is text if text is None else text in error
    assert rows_of(labeller)[3]["label"] == "labels/good.png.png"


def test_images_of_other_storage(labeller, tmp_path):
    item = save(tmp_path, "a.png")._replace(path=f"file://{tmp_path}/a.png")
    text = Input("memory://bucket/text.png", "text.png")
    fsspec.filesystem("memory").pipe("bucket/text.png", b"not an image")
    assert labeller(Block("block", (item, text))) == Count(2, 1)
    assert "(it is in no image format" in rows_of(labeller)[1]["error"]


def test_names_are_checked_before_any_image(tmp_path):
    with pytest.raises(ValueError, match="two names"):
        Labeller(Task(load_toy, str(tmp_path), names=("a", "b", "c")), "cpu")


def test_an_unwritable_output_stops(labeller, tmp_path):
    item = save(tmp_path, "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "blocks").touch()
    with pytest.raises(FileExistsError):
        labeller(Block("block", (item,)))


def killed(labeller, block):
    """Labels a block in a process that is killed; returns whether it was."""
    if child := os.fork():
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    try:
        Labeller(labeller.task, "cpu")(block)  # with threads of its own
    finally:
        os._exit(0)


def test_an_image_at_which_processes_die_becomes_a_row(labeller, tmp_path):
    items = (save(tmp_path, "a.png"), save(tmp_path, "deadly.png", DEADLY), save(tmp_path, "c.png"))
    block = Block("block", items)
    for _ in range(1 + LETHAL):
        assert killed(labeller, block)
        assert not rows_file(labeller.task.output, "block").exists()
    assert not killed(labeller, block)
    assert [row["status"] for row in rows_of(labeller)] == ["ok", "failed", "ok"]
    assert "died" in rows_of(labeller)[1]["error"]
    assert not list((tmp_path / "out" / "blocks").glob("*.started"))


def test_batches_hold_images_of_one_size():
    sizes = [(2, 2), (3, 3), (2, 2), (2, 2), (4, 4), (3, 3)]
    images = [(Input(str(i), ""), np.zeros((*size, 3), np.uint8)) for i, size in enumerate(sizes)]
    batches = [[int(item.path) for item, _ in batch] for batch in batches_by_size(images, 2)]
    assert batches == [[0, 2], [1, 5], [3], [4]]
    many = [(Input(str(i), ""), np.zeros((1, 1 + i, 3), np.uint8)) for i in range(20)]
    iterator = batches_by_size(iter(many), 2)
    assert len(next(iterator)) == 1 and len(list(iterator)) == 19  # before all are read
