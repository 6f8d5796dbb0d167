import fsspec
import pytest
from PIL import Image

from mta_clip.labelling.inputs import Input, cut, find_inputs, utf8


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name in ("b.png", "a.JPG", "sub/c.png", "sub/deep/d.jpg", "notes.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(source):
    return [item.name for item in find_inputs(str(source))]


def test_folders(photos):
    assert names(photos) == ["a.JPG", "b.png", "sub/c.png", "sub/deep/d.jpg"]
    assert next(find_inputs(str(photos))).path == str(photos / "a.JPG")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.png", ["b.png"]),
        ("*/*.png", ["sub/c.png"]),
        ("**/*.png", ["b.png", "sub/c.png"]),
        ("[ab].*", ["a.JPG", "b.png"]),
    ],
)
def test_patterns(photos, pattern, found):
    assert names(photos / pattern) == found


def test_lists(photos, tmp_path):
    lines = ["photos/b.png", "", f"{photos}/./a.JPG", "photos/../photos/b.png", "s3://bucket/x/y.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    found = list(find_inputs(str(tmp_path / "list.txt")))
    assert [item.path for item in found] == [str(photos / "b.png"), str(photos / "a.JPG"), "s3://bucket/x/y.png"]
    assert found[0].name == str(photos / "b.png").lstrip("/") and found[2].name == "bucket/x/y.png"


def test_urls(photos):
    files = fsspec.filesystem("memory")
    files.pipe({"/scaled/photos/b.png": b"1", "/scaled/photos/sub/a.png": b"2"})
    try:
        expected = [
            Input("memory:///scaled/photos/b.png", "b.png"),
            Input("memory:///scaled/photos/sub/a.png", "sub/a.png"),
        ]
        assert list(find_inputs("memory://scaled/photos")) == expected
        assert list(find_inputs("memory://scaled/photos/**/*.png")) == expected
    finally:
        files.rm("/scaled", recursive=True)


def test_names_of_files_are_no_urls(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "a::b.png")
    assert names(tmp_path) == ["a::b.png"]


def test_nothing_there(photos):
    for source in ("gone", "gone/*.png", "list.txt", "sub/deep/*.png"):
        with pytest.raises(FileNotFoundError, match=r"gone|list|no image"):
            list(find_inputs(str(photos / source)))


def inputs(numbers):
    return [Input(f"/photos/{number}.png", f"{number}.png") for number in numbers]


def test_blocks_hold_everything_in_order():
    blocks = list(cut(inputs(range(1000)), 10))
    assert [item for block in blocks for item in block.inputs] == inputs(range(1000))
    assert max(len(block.inputs) for block in blocks) <= 40 and 80 < len(blocks) < 125
    assert [len(block.inputs) for block in cut(inputs(range(10)), 1)] == [1] * 10


def test_new_images_change_few_blocks():
    before = {block.name for block in cut(inputs(range(1000)), 10)}
    after = {block.name for block in cut([*inputs([-1]), *inputs(range(500)), *inputs(range(501, 1000))], 10)}
    assert len(before) > 80 and len(before - after) <= 4  # the first, and the one that lost an image


def test_bytes_that_are_no_text():
    assert utf8("a\udcff.png") == "a\\xff.png" and utf8("ä.png") == "ä.png"
