from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mta_clip.data import LabelReader
from mta_clip.data.prepare import convert_label_maps, find_files, load_mat, run_script


@pytest.mark.parametrize("workers", [0, 2])
def test_conversion(tmp_path, workers):
    sources, targets = [], []
    for number in range(4):
        sources.append(tmp_path / f"{number}.png")
        targets.append(tmp_path / "deep" / "out" / f"{number}.png")
        Image.fromarray(np.full((2, 3), number, np.uint8)).save(sources[-1])
    reader = LabelReader(num_classes=9, label_map={0: 255, 1: 8, 2: 1, 3: 2})
    convert_label_maps(sources, targets, reader.read, workers=workers)
    assert [int(np.array(Image.open(path))[0, 0]) for path in targets] == [255, 8, 1, 2]


def test_error_of_one_file_leaves_the_others(tmp_path):
    for number in (0, 1):
        Image.fromarray(np.full((2, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    sources, targets = [[folder / f"{k}.png" for k in (0, 1)] for folder in (tmp_path, tmp_path / "out")]
    with pytest.raises(ValueError, match=r"1\.png: label value 1"):
        convert_label_maps(sources, targets, LabelReader(num_classes=1).read, workers=0)
    assert targets[0].exists()
    assert not targets[1].exists()


def test_nothing_to_convert():
    with pytest.raises(ValueError, match="no files"):
        convert_label_maps([], [], Path, workers=0)


def test_find_files_names_the_download(tmp_path):
    (tmp_path / "._hidden.png").touch()
    with pytest.raises(FileNotFoundError, match=r"Unpack it\.zip"):
        find_files(tmp_path, "*.png", download="it.zip")


def test_load_mat(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"LabelMap": np.eye(2)})
    np.testing.assert_array_equal(load_mat(path, "LabelMap"), np.eye(2))
    with pytest.raises(ValueError, match=r"a\.mat: there is no array 'GTcls'.*LabelMap"):
        load_mat(path, "GTcls")
    scipy.io.savemat(path, {"LabelMap": np.random.rand(30, 30)}, do_compression=True)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"a\.mat: the MATLAB file cannot be read"):
        load_mat(path, "LabelMap")
    with pytest.raises(FileNotFoundError):
        load_mat(tmp_path / "no.mat", "LabelMap")


def test_ctrl_c_ends_a_script_with_one_line(tmp_path, caplog):
    def interrupted(root, workers):
        raise KeyboardInterrupt

    assert run_script("", interrupted, ["--root", str(tmp_path)]) == 130
    assert [record.getMessage() for record in caplog.records] == ["Stopped; the same command continues"]
