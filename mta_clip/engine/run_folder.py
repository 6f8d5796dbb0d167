"""A run owns its folder: a second one does not start in it, unless it is told to continue or to replace the first."""

import os
import shutil
import tempfile
from pathlib import Path

from detectron2.config import CfgNode

from .launch import restarts

FINAL_CHECKPOINT = "model_final.pth"  # that metrics.json is about
BEST_CHECKPOINT = "model_best.pth"  # by TEST.KEEP_BEST
_LAST = "last_checkpoint"  # holds the name of the newest checkpoint
# What a run leaves behind; a run is there if one of the first kind is.
RESULTS = ("config.yaml", _LAST, "model_*.pth", "metrics.json", "training_metrics.json")
_PICTURES = ("per_class.csv", "confusion_matrix.png")
_OTHERS = ("log.txt*", "events.out.tfevents.*", "eval", "tta", "non_finite*.pth", *_PICTURES)


def claim_folder(folder: str, *, resume: bool = False, overwrite: bool = False, weights: str = "") -> None:
    """Makes the folder of a run, and checks that it can be used. Deletes nothing; see `clear_folder`.

    Processes other than the first, and restarted ones, do nothing.

    Args:
        resume: the run may continue an earlier one.
        overwrite: the run may replace an earlier one.
        weights: MODEL.WEIGHTS.

    Raises:
        FileExistsError: the folder holds an earlier run; or `overwrite` would delete the weights to start from.
        FileNotFoundError: these weights do not exist.
        OSError: files cannot be written there.
    """
    if restarts()[0] or int(os.environ.get("RANK", 0)):
        return
    found = earlier_run(folder)
    if found and not (resume or overwrite):
        raise FileExistsError(
            f"OUTPUT_DIR {folder} holds an earlier run ({', '.join(found[:4])}{', ...' if len(found) > 4 else ''}). "
            "Add --resume to continue it or --overwrite to delete it, or choose another OUTPUT_DIR"
        )
    if weights and "://" not in weights and not os.path.isfile(weights):  # else only known when the folder is cleared
        raise FileNotFoundError(f"{weights}: no such checkpoint file; look at MODEL.WEIGHTS")
    if found and overwrite and os.path.realpath(weights) in map(os.path.realpath, _run_files(folder)):
        raise FileExistsError(f"--overwrite would delete MODEL.WEIGHTS {weights}: choose another OUTPUT_DIR")
    check_writable(folder, "OUTPUT_DIR")


def check_writable(folder: str, what: str) -> None:
    """Makes a folder; raises an OSError that names it if files cannot be written there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(f"{what} {folder} cannot be written: {error.strerror}. Choose another folder") from error


def clear_folder(folder: str) -> None:
    """Deletes the files of an earlier run; files of other names stay."""
    for path in _run_files(folder):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _run_files(folder: str) -> list[Path]:
    return [path for pattern in (*RESULTS, *_OTHERS) for path in Path(folder).glob(pattern)]


def earlier_run(folder: str) -> list[str]:
    """Names of files that an earlier run left in a folder, sorted; empty if there is none."""
    found = [path for pattern in RESULTS for path in Path(folder).glob(pattern)]
    return sorted(path.name for path in found if path.stat().st_size)  # a run that cannot start leaves an empty log


def last_checkpoint(folder: str) -> str | None:
    """The checkpoint that `--resume` continues from; None if there is none."""
    name = Path(folder) / _LAST
    return str(Path(folder) / name.read_text().strip()) if name.is_file() else None


def evaluation_folder(cfg: CfgNode) -> str:
    """Where an evaluation of MODEL.WEIGHTS leaves its files: OUTPUT_DIR/eval/<name of the weights>[/<dataset>]."""
    only = cfg.DATASETS.TEST[0] if len(cfg.DATASETS.TEST) == 1 else ""  # several get folders of their own
    return str(Path(cfg.OUTPUT_DIR) / "eval" / Path(cfg.MODEL.WEIGHTS).stem / only)


def newest_weights(folder: str) -> str:
    """The weights of a run: its last checkpoint, or model_final.pth if nothing says which is the last.

    Raises:
        FileNotFoundError: there is neither, or the last one is gone.
    """
    last = last_checkpoint(folder)
    if last and not Path(last).is_file():
        raise FileNotFoundError(f"{last} does not exist, but {folder}/{_LAST} names it; name another checkpoint")
    if not last and not Path(folder, FINAL_CHECKPOINT).is_file():
        raise FileNotFoundError(f"{folder}: this folder has no checkpoint; name one with --weights, or weights=...")
    return last or str(Path(folder, FINAL_CHECKPOINT))
