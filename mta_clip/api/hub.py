"""Models on the Hugging Face Hub."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from .saved_model import FILES


def is_repo_id(text: str) -> bool:
    """Whether a text has the form of a repository's id, "user/name"."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) is not None


def download_folder(repo_id: str, *, revision: str | None = None) -> Path:
    """The files of a saved model in a repository, downloaded into Hugging Face's cache unless they are there.

    Args:
        revision: branch, tag or commit; None: the newest state.

    Raises:
        FileNotFoundError: there is no such repository or revision, or the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

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
