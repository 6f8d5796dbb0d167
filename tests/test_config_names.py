import pytest

from mta_clip import config_names as names
from mta_clip.config_loader import load_config


@pytest.mark.parametrize(
    "name", ["camvid/mta_clip_small", "camvid/mta_clip_small.yaml", "configs/camvid/mta_clip_small"]
)
def test_names_work_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(name, [])
    assert cfg.DATASETS.TRAIN == ("camvid_sem_seg_train",) and cfg.MODEL.META_ARCHITECTURE == "MTACLIP"


def test_files_and_folders_of_runs_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "camvid" / "mta_clip_small"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("SEED: 7\n")
    assert load_config("camvid/mta_clip_small", []).SEED == 7
    assert load_config(str(run / "config.yaml"), []).SEED == 7


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("camvid/mta_clip_smal", "did you mean camvid/mta_clip_small"),
        ("configs/camvid/mta_clip_smal.yaml", "did you mean camvid/mta_clip_small"),
        ("my.yaml", "mta-clip info lists the names"),
    ],
)
def test_misspelt_names(name, hint):
    with pytest.raises(FileNotFoundError, match=f"{name} does not exist.*{hint}"):
        names.find_config(name)


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.yaml does not exist; the folder of a run"):
        names.find_config(str(tmp_path))


def test_bases_are_no_models():
    assert "shapes/mta_clip_tiny" in names.config_names()
    assert not any(name.startswith("_base") for name in names.config_names())


def test_configs_of_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text("SEED: 1\n")
    monkeypatch.setattr(names, "_INSTALLED", tmp_path)
    assert names.config_names() == ["own"] and names.find_config("own") == str(tmp_path / "own.yaml")
