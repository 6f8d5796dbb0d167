"""Models on the Hugging Face Hub."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..config_names import names_config


def is_repo_id(text: str) -> bool:
    """Whether a text has the form of a repository's id, "user/name"."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) is not None


def is_only_on_hub(source: str) -> bool:
    """Whether a model can be on the Hub alone: no file or folder here, and no config, has this name.

    Raises:
        FileNotFoundError: nothing here has this name, and it has not the form of a repository's id.
    """
    if Path(source).exists() or names_config(source):
        return False
    if not is_repo_id(source):
        raise FileNotFoundError(
            f"{source} does not exist. A model is a run's folder (with config.yaml), a saved model, a checkpoint "
            'file, a config with weights=..., or a repository "user/name" on the Hugging Face Hub'
        )
    return True


def download_folder(repo_id: str, *, revision: str | None = None) -> Path:
    """The files of a saved model in a repository, downloaded into Hugging Face's cache unless they are there.

    Args:
        revision: branch, tag or commit; None: the newest state.

    Raises:
        FileNotFoundError: there is no such repository or revision, or the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    from .saved_model import FILES

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(FILES)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{repo_id}: no such file or folder here, and no such model could be loaded from the Hugging Face Hub: "
            f"{error}"
        ) from error


def upload_folder(
    save: Callable[[Path], Path], repo_id: str, *, private: bool, token: str | None, commit_message: str
) -> str:
    """Uploads what `save(folder)` writes; for arguments, result and errors see `Segmenter.push_to_hub`."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        saved = save(Path(folder) / "model")  # first, so that no empty repository is made if this fails
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=saved, commit_message=commit_message)
    return str(url)
