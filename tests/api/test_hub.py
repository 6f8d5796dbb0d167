import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from saved_models import METRICS, mta_clip_config, segmenter

import mta_clip
from mta_clip.api.hub import is_repo_id
from mta_clip.api.saved_model import FILES


class LocalHub:
    """Stands in for the Hub: a folder per repository, with the calls that are used of huggingface_hub."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls = []

    def api(self, token=None):
        self.token = token
        return self

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        self.calls.append(("create_repo", repo_id, private))
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.calls.append(("upload_folder", repo_id, commit_message))
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, repo_id, *, revision=None, allow_patterns):
        self.calls.append(("snapshot_download", repo_id, revision))
        if not (self.root / repo_id).is_dir():
            raise ValueError(f"404: {repo_id}")
        assert allow_patterns == list(FILES)
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = LocalHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", hub.api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_there_and_back(hub, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    model = segmenter(mta_clip_config(), metrics=METRICS)
    url = model.push_to_hub("me/streets", private=True, token="secret", commit_message="First")
    assert url == "https://huggingface.co/me/streets" and hub.token == "secret"
    loaded = mta_clip.load("me/streets", revision="v1", device="cpu")
    assert np.array_equal(loaded(image).scores, model(image).scores) and loaded.metrics == METRICS
    assert hub.calls == [
        ("create_repo", "me/streets", True),
        ("upload_folder", "me/streets", "First"),
        ("snapshot_download", "me/streets", "v1"),
    ]
    model.push_to_hub("me/streets")  # again


def test_folders_of_this_machine_come_first(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    segmenter(mta_clip_config()).save("output/demo")
    mta_clip.load("output/demo")
    assert hub.calls == []


def test_what_is_neither_here_nor_there_is_told(hub, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"output/gone: no such file or folder here.*404"):
        mta_clip.load("output/gone")

    def missing(*_, **__):
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", missing)
    with pytest.raises(FileNotFoundError, match="no such file or folder here"):
        mta_clip.load("output/gone")


def test_without_network_the_error_is_ours():
    with pytest.raises(FileNotFoundError, match="no such file or folder here"):  # tests set HF_HUB_OFFLINE
        mta_clip.load("me/streets")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("me/streets", True), ("me/a.b-c_1", True), ("streets", False), ("a/b/c", False), ("../x", False), ("/x", False)],
)
def test_repo_ids(text, expected):
    assert is_repo_id(text) == expected
