import io
import json
import tarfile

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from mta_clip.labelling.inputs import Input
from mta_clip.labelling.shards import FORMATS

ITEMS = [Input("/photos/a.jpg", "a.jpg"), Input("/photos/sub/a.png", "sub/a.png")]


def picture(value):
    return Image.fromarray(np.full((2, 3), value, np.uint8))


def write(tmp_path, name):
    with FORMATS[name](tmp_path, "block") as shard:
        return [shard(item, picture(value)) for value, item in enumerate(ITEMS)]


def values(file):
    return np.array(Image.open(file)).tolist()


def test_png_files(tmp_path):
    assert write(tmp_path, "png") == ["labels/a.jpg.png", "labels/sub/a.png.png"]
    assert values(tmp_path / "labels/sub/a.png.png") == [[1, 1, 1]] * 2


def test_parquet(tmp_path):
    assert write(tmp_path, "parquet")[1] == "labels/block.parquet#sub/a.png"
    rows = pyarrow.parquet.read_table(tmp_path / "labels/block.parquet").to_pylist()
    assert [row["path"] for row in rows] == [item.path for item in ITEMS]
    assert values(io.BytesIO(rows[1]["png"])) == [[1, 1, 1]] * 2


def test_webdataset(tmp_path):
    assert write(tmp_path, "webdataset")[1] == "labels/block.tar#000001"
    with tarfile.open(tmp_path / "labels/block.tar") as tar:
        assert tar.getnames() == ["000000.png", "000000.json", "000001.png", "000001.json"]
        assert values(tar.extractfile("000001.png")) == [[1, 1, 1]] * 2
        assert json.load(tar.extractfile("000001.json")) == {"path": "/photos/sub/a.png", "name": "sub/a.png"}


@pytest.mark.parametrize("name", ["parquet", "webdataset"])
def test_a_shard_is_whole_or_absent(tmp_path, name):
    with pytest.raises(ZeroDivisionError), FORMATS[name](tmp_path, "block") as shard:
        shard(ITEMS[0], picture(0))
        raise ZeroDivisionError
    assert not list(tmp_path.rglob("block.*"))
