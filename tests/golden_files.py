"""Reference numbers of the official implementations: where they lie and how they are read.

Each file holds a JSON `config`, weights `w/<official name>` and inputs and outputs; see tests/golden/README.md.
The folder is tests/golden, or the one named by the environment variable MTA_CLIP_GOLDEN.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN_DIR = Path(os.environ.get("MTA_CLIP_GOLDEN") or Path(__file__).parent / "golden")


KINDS = ("m2f", "m2f_msda", "mta_full_loss", "mta_head", "mta_sim_loss", "mta_text") + (
    "tag_e2e",
    "tag_encoder",
    "tag_head",
    "tag_loss",
)


def golden_params(kind: str) -> list:
    """One pytest parameter per file `<kind>_<anything>.npz`; a skipped one if the folder has none."""
    paths = [path for path in sorted(GOLDEN_DIR.glob("*.npz")) if _kind_of(path) == kind]
    if not paths:
        return [pytest.param(None, marks=pytest.mark.skip(f"no {kind}_*.npz in {GOLDEN_DIR}"))]
    return [pytest.param(path, id=path.stem) for path in paths]


def _kind_of(path: Path) -> str | None:
    matching = [kind for kind in KINDS if path.stem.startswith(kind + "_")]
    return max(matching, key=len, default=None)


def load(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Reads a file.

    Returns:
        Its configuration, and its arrays as tensors by entry name.
    """
    with np.load(path, allow_pickle=False) as archive:
        config = json.loads(str(archive["config"]))
        arrays = {name: torch.from_numpy(np.array(archive[name])) for name in archive.files if name != "config"}
    return config, arrays


def weights(arrays: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """The stored state dict, optionally only the part below an official prefix, which is cut off."""
    start = "w/" + prefix
    return {name[len(start) :]: value for name, value in arrays.items() if name.startswith(start)}
