"""Reference numbers of the official implementations: where they lie and how they are read.

Each file holds a JSON `config`, weights `w/<official name>` and inputs and outputs; see tests/golden/README.md.
The folder is tests/golden, or the one named by the environment variable MTA_CLIP_GOLDEN. They are compared on the GPU
if there is one; MTA_CLIP_GOLDEN_DEVICE names another device. Where MTA_CLIP_PARITY_REPORT names a file, every `compare`
appends one JSON line to it; tools/parity_report.py makes a table of them.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN_DIR = Path(os.environ.get("MTA_CLIP_GOLDEN") or Path(__file__).parents[1] / "golden")
GOLDEN_DEVICE = os.environ.get("MTA_CLIP_GOLDEN_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")

KINDS = (
    "m2f",
    "m2f_msda",
    "mta_full_loss",
    "mta_head",
    "mta_sim_loss",
    "mta_text",
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
        Its configuration, and its arrays as tensors by entry name, on GOLDEN_DEVICE.
    """
    with np.load(path, allow_pickle=False) as archive:
        config = json.loads(str(archive["config"]))
        arrays = {name: np.array(archive[name]) for name in archive.files if name != "config"}
    arrays = {name: torch.from_numpy(array).to(GOLDEN_DEVICE) for name, array in arrays.items()}
    return config, arrays


def weights(arrays: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """The stored state dict, optionally only the part below an official prefix, which is cut off."""
    start = "w/" + prefix
    return {name[len(start) :]: value for name, value in arrays.items() if name.startswith(start)}


def compare(
    label: str,
    actual: torch.Tensor,
    expected: torch.Tensor,
    *,
    atol: float = 1e-4,
    rtol: float = 0.0,
    against: str = "",
) -> None:
    """Asserts that two tensors agree to `atol + rtol * |expected|` everywhere, and records how far apart they are.

    Args:
        label: what is compared, the same in every file of a kind ("mask logits"); it names a row of the parity table.
        against: whose numbers `expected` are, for the table; "" = the official implementation of the golden file.

    Raises:
        AssertionError: another shape, a value that is not finite on one side only, or a difference above the limit.
    """
    assert tuple(actual.shape) == tuple(expected.shape), (
        f"{label}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    )
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    # equal infinities (and NaN in both) agree; their difference would be NaN
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    difference = (actual - expected).abs().masked_fill(same, 0.0).nan_to_num(nan=float("inf"))
    largest = difference.max().item() if difference.numel() else 0.0
    _record(label, largest, expected, atol, rtol, against)
    excess = difference - (atol + rtol * expected.abs()).nan_to_num(nan=0.0, posinf=0.0)
    if excess.numel() and excess.max() > 0:
        at = tuple(int(i) for i in np.unravel_index(int(excess.argmax()), tuple(excess.shape)))
        raise AssertionError(
            f"{label}: {int((excess > 0).sum())} of {excess.numel()} values differ by more than {atol:g} + {rtol:g} * "
            f"|expected|; at {at}: {actual[at].item():.8g}, expected {expected[at].item():.8g} (largest {largest:.3g})"
        )


def _record(label: str, largest: float, expected: torch.Tensor, atol: float, rtol: float, against: str) -> None:
    report = os.environ.get("MTA_CLIP_PARITY_REPORT")
    if not report:
        return
    line = {
        "test": os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0],
        "label": label,
        "against": against,
        "largest_difference": largest,
        "largest_value": expected.abs().max().item() if expected.numel() else 0.0,
        "atol": atol,
        "rtol": rtol,
    }
    with open(report, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
