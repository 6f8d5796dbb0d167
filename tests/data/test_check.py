import miniatures
import numpy as np
import pytest
from dataset_files import write_values
from PIL import Image

from mta_clip.cli.main import main
from mta_clip.config import get_cfg
from mta_clip.data import check
from mta_clip.data.check import check_dataset, check_training_data, draw_findings, format_findings

NAME = "camvid_sem_seg_val"


@pytest.fixture
def camvid(datasets_root):
    miniatures.make_miniature("camvid", datasets_root)
    return datasets_root / "camvid"


def _label_files(camvid):
    return sorted((camvid / "valannot").iterdir())


def _run(tmp_path, *arguments):
    return main(["check", *arguments, "--output", str(tmp_path / "out"), "--workers", "0"])


def test_sound_dataset(camvid, tmp_path, caplog):
    caplog.set_level("INFO")
    assert _run(tmp_path, NAME) == 0
    assert Image.open(tmp_path / "out" / f"{NAME}.png").size[0] > 300
    assert "2 pairs" in caplog.text
    assert "sidewalk" in caplog.text


def test_counts_are_those_of_the_files(camvid):
    findings = check_dataset(NAME)
    stored = np.concatenate([np.array(Image.open(path)).ravel() for path in _label_files(camvid)])
    assert [findings.pixels[k] for k in range(11)] == np.bincount(stored, minlength=12)[:11].tolist()
    assert findings.pixels[255] == (stored == 11).sum()
    assert findings.images[255] == 2
    assert sum(findings.sizes.values()) == 2


def test_workers_change_nothing(camvid):
    assert check_dataset(NAME, workers=2) == check_dataset(NAME)


def test_value_out_of_range(camvid, tmp_path, caplog):
    first = _label_files(camvid)[0]
    labels = np.array(Image.open(first))
    labels[0, :5] = 77
    Image.fromarray(labels).save(first)
    assert _run(tmp_path, NAME) == 1
    assert f"value 77 is out of range (label maps: 1, pixels: 5), first in {first}" in caplog.text
    assert "If they mean void, add --label-map '{77: 255}' (label_map in DATASETS.FOLDERS)" in caplog.text


def test_labels_that_count_from_one(tmp_path, caplog):
    _folder(tmp_path, [[0, 1], [2, 3]])
    assert _run(tmp_path, "folder_for_test", "--config-file", str(tmp_path / "config.yaml")) == 1
    assert "count from 1, and 0 means void, add --label-map '{0: 255, 1: 0, 2: 1, 3: 2}'" in caplog.text


def test_ignore_label_that_covers_everything(tmp_path, caplog):
    _folder(tmp_path, [[255, 255], [255, 255]])
    assert _run(tmp_path, "folder_for_test", "--config-file", str(tmp_path / "config.yaml")) == 1
    assert "100.0% of all pixels have the ignore label 255" in caplog.text


def test_config_that_contradicts_the_dataset(tmp_path, caplog):
    model = "{SEM_SEG_HEAD: {NUM_CLASSES: 4}}"
    _folder(tmp_path, [[0, 1], [2, 255]], extra="  TRAIN: [folder_for_test]\n", model=model)
    assert _run(tmp_path, "folder_for_test", "--config-file", str(tmp_path / "config.yaml")) == 1
    assert "NUM_CLASSES is 4 in the config, but should be 3" in caplog.text


def _folder(root, labels, extra="", model="{}"):
    for kind, pixels in (("images", np.zeros((2, 2, 3))), ("labels", labels)):
        (root / kind).mkdir()
        Image.fromarray(np.array(pixels, np.uint8)).save(root / kind / "a.png")
    (root / "config.yaml").write_text(
        f"DATASETS:\n{extra}  FOLDERS:\n  - name: folder_for_test\n    image_dir: {root}/images\n"
        f"    label_dir: {root}/labels\n    classes: [cat, dog, my bird]\nMODEL: {model}\n"
    )


def test_size_mismatch_and_broken_files_are_all_reported(camvid, tmp_path, caplog):
    first, second = _label_files(camvid)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(first)
    second.write_bytes(second.read_bytes()[:40])
    assert _run(tmp_path, NAME) == 1
    assert f"{first}: the label map is 4x3 pixels, but its image" in caplog.text
    assert f"{second}: the label map cannot be read" in caplog.text
    assert len(check_dataset(NAME).problems) == 2


def test_missing_pair(camvid, tmp_path, caplog):
    missing = _label_files(camvid)[0]
    missing.unlink()
    assert _run(tmp_path, NAME) == 1
    assert f"1 of 2 label maps are missing in this folder: {missing.name}" in caplog.text


def test_only_some_troubles_are_listed(camvid, monkeypatch):
    monkeypatch.setattr(check, "_SHOWN", 1)
    first, second = _label_files(camvid)
    first.write_bytes(b"")
    Image.new("RGB", (4, 3)).save(second)
    told = check_dataset(NAME).troubles()
    assert [trouble.partition(": ")[0] for trouble in told] == [str(first), "... and other problems"]


def test_files_with_the_same_trouble_are_one_line(camvid):
    first, second = _label_files(camvid)
    for path in (first, second):
        Image.new("RGB", Image.open(path).size).save(path)
    (told,) = check_dataset(NAME).troubles()
    assert told.startswith(f"{first}: the label map has mode RGB") and told.endswith("(and files like it: 1)")


@pytest.mark.parametrize("name, message", [("no_such_dataset", "not registered"), ("coco_2017_val", "")])
def test_unknown_dataset(name, message, datasets_root, tmp_path, caplog):
    assert _run(tmp_path, name) == 1
    assert message in caplog.text


def test_notes_on_absent_classes_and_ignore_label():
    findings = check.DatasetFindings(["cat", "dog"], 255)
    findings.add(check.FileFindings("a", size=(1, 4), pixels={0: 4}))
    assert findings.troubles() == []
    assert findings.notes() == ["no pixel has the class dog", "no pixel has the ignore label 255"]
    assert "4x1 (1)" in format_findings(findings)
    draw_findings(findings, [(1, 2, 3), (4, 5, 6)], "title")


def test_masks_of_0_and_255(caplog):
    findings = check.DatasetFindings(["wall", "crack"], 255)
    findings.add(check.FileFindings("a", size=(1, 4), pixels={0: 3, 255: 1}))
    assert findings.troubles() == [
        "'crack' has no pixel. If 255 means it, add --label-map '{255: 1}' (label_map in DATASETS.FOLDERS)"
    ]


def test_bit_depth_is_reported(camvid):
    first = sorted((camvid / "val").iterdir())[0]
    pixels = np.array(Image.open(first).convert("L"), np.uint16)
    Image.fromarray(pixels * 16).save(first)  # 12 bits
    findings = check_dataset(NAME)
    assert findings.depths == {"16-bit grey": 1, "8-bit RGB": 1}
    assert "bit depth (images): 16-bit grey (1), 8-bit RGB (1)" in format_findings(findings)
    assert [note for note in findings.notes() if "no 16-bit grey image is brighter than 1" in note]
    Image.fromarray(pixels * 256).save(first)
    assert not [note for note in check_dataset(NAME).notes() if "brighter" in note]


def _training(camvid, num_classes=None):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("camvid_sem_seg_train",), (NAME,)
    if num_classes:
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    return cfg


def test_training_data_that_is_sound(camvid):
    check_training_data(_training(camvid))
    check_training_data(get_cfg())  # nothing is said of datasets


def test_training_data_is_checked_for_classes_and_label_values(camvid):
    with pytest.raises(ValueError, match="NUM_CLASSES is 3, but"):
        check_training_data(_training(camvid, num_classes=3))
    write_values(_label_files(camvid)[1], [12] * 5)
    with pytest.raises(
        ValueError, match=r"value 12 is out of range(.|\n)*--label-map '\{12: 255\}'(.|\n)*mta-clip check"
    ):
        check_training_data(_training(camvid))
    check_training_data(_training(camvid), sample=1)
    _label_files(camvid)[0].unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 label maps are missing"):
        check_training_data(_training(camvid), sample=1)


def test_training_data_of_which_most_is_ignored_is_a_warning(camvid, caplog):
    for path in _label_files(camvid):
        labels = np.array(Image.open(path))
        Image.fromarray(np.full_like(labels, 11)).save(path)
    check_training_data(_training(camvid))
    assert "In a sample of 2 images of camvid_sem_seg_val: 100.0% of all pixels have the ignore label" in caplog.text


def test_nothing_readable_still_reports():
    findings = check.DatasetFindings(["cat"], 255)
    findings.add(check.FileFindings("a", problem="broken"))
    assert findings.troubles() == ["broken"]
    format_findings(findings)
    draw_findings(findings, [(1, 2, 3)], "title").savefig("/dev/null", format="png")
