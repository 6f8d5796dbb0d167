"""Detectron2's checkpointer, made strict about shapes and unable to run code from a file."""

import contextlib
import fnmatch
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from ..config_loader import parse_config
from ..files import complete_file
from .class_rows import with_rows_of_classes
from .readers import CheckpointError, read_checkpoint
from .writers import save_plain

logger = logging.getLogger(__name__)

# Position tables of text towers: DenseCLIP and MTA-CLIP keep only the rows they use of CLIP's 77.
SHORTER_TABLES = ("text_encoder.tower.positional_embedding",)

# Parameters that this project has renamed: old name -> new name.
RENAMED = {"criterion.similarity_loss.logit_scale": "prompt_learner.logit_scale"}

_CONVERT = "Convert it first: python tools/convert_checkpoint.py --source {source} INPUT OUTPUT"


class SegmentationCheckpointer(DetectionCheckpointer):
    """Saves and loads models with their training state: .safetensors, .pth, and Detectron2's .pkl backbones.

    Unlike in Detectron2, a parameter of another shape is an error, as is a file of which nothing fits; renamed
    parameters are found under their old names (RENAMED); files are written atomically.

    Args:
        save_dir: folder for checkpoints; "" saves none.
        skip: shell patterns of parameter names that `resume_or_load` does not take from the weights file (they keep
            their initial values), e.g. "*class_embed*". A resumed run takes all.
        reset_classes: whether the file that `resume_or_load` starts from has other classes: what it has learned of
            classes that are not the model's is dropped, see `with_rows_of_classes`. A resumed run takes all.
        config: of the model, as YAML; saved with it, so that the file alone is enough to build the model again.
        weights_to_save: a context in which the model has the weights that are saved, such as an average.
        save_to_disk: whether this process writes files; default: only the main process does.
        checkpointables: by name, objects with `state_dict` and `load_state_dict` that are saved with the model.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        skip: Sequence[str] = (),
        reset_classes: bool = False,
        config: str = "",
        weights_to_save: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.logger = logger
        self.skip = tuple(skip)
        self.reset_classes = reset_classes
        self.config = config
        self.weights_to_save = weights_to_save

    def save(self, name: str, **extra: Any) -> None:
        """Saves the model, the states of the checkpointables and `extra` to `<save_dir>/<name>.pth`.

        Raises:
            TypeError: a value that is not a tensor, number, string or plain container.
            OSError: the file cannot be written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        with self.weights_to_save():
            states = {key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()}
            self._write(name, states | extra)
        self.tag_last_checkpoint(f"{name}.pth")

    def save_weights(self, name: str, **extra: Any) -> None:
        """Saves the model and `extra`, without a state to resume from, to `<save_dir>/<name>.pth`.

        Raises:
            TypeError, OSError: see `save`.
        """
        with self.weights_to_save():
            self._write(name, extra)

    def _write(self, name: str, extra: dict[str, Any]) -> None:
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        config = {"config": self.config} if self.config else {}
        save_plain({"model": self.model.state_dict()} | config | extra, path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Records the name of the file that `--resume` continues from."""
        with complete_file(Path(self.save_dir) / "last_checkpoint") as temporary:
            temporary.write_text(last_filename_basename)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Loads a file into the model and the checkpointables.

        Args:
            path: a file, or a URL that Detectron2 can fetch; "" loads nothing.
            checkpointables: names of those to load; None: all.

        Returns:
            What the file holds beside what was loaded, such as the iteration.

        Raises:
            FileNotFoundError: the file does not exist.
            CheckpointError: see `read_checkpoint`, or it does not fit the model.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: no such checkpoint file; look at MODEL.WEIGHTS")
        return super().load(path, checkpointables)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """With `resume`, `load`s the last checkpoint of `save_dir` if there is one; else only the weights of `path`."""
        if resume and self.has_checkpoint():
            before = self.skip, self.reset_classes
            self.skip, self.reset_classes = (), False
            try:
                return self.load(self.get_checkpoint_file())
            finally:
                self.skip, self.reset_classes = before
        return self.load(path, checkpointables=[])

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_checkpoint(filename)
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{filename}: holds a {type(content).__name__}; expected weights by name")
        if "state_dict" in content and "model" not in content:
            raise CheckpointError(
                f"{filename}: this is a checkpoint of mmsegmentation. {_CONVERT.format(source='mta-clip')}"
            )
        if "model" in content:
            checkpoint = dict(content)
        elif filename.endswith(".pkl"):  # Caffe2: weights by name, below "blobs" for detection models
            blobs = content.get("blobs", content)
            weights = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
            checkpoint = {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        else:
            checkpoint = {"model": dict(content)}
        weights = checkpoint["model"]
        if not isinstance(weights, dict) or not weights:
            raise CheckpointError(f"{filename}: there are no weights in it")
        for name, value in weights.items():
            if not isinstance(value, (Tensor, np.ndarray)):
                raise CheckpointError(f"{filename}: {name!r} is a {type(value).__name__}, not a tensor")
        if broken := [name for name, value in weights.items() if torch.as_tensor(value).isnan().any()]:
            raise CheckpointError(
                f"{filename}: these weights are NaN: {', '.join(broken[:5])}{', ...' if len(broken) > 5 else ''}. The "
                "training that saved them has failed: take an earlier checkpoint"
            )
        if any(name.startswith("sem_seg_head.predictor.") for name in weights):
            raise CheckpointError(
                f"{filename}: this is a checkpoint of Mask2Former. {_CONVERT.format(source='mask2former')}"
            )
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        weights = _renamed(checkpoint.pop("model"), self.model.state_dict())
        skipped = [name for name in weights if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.skip)]
        if skipped:
            self.logger.warning("Not loaded, as MODEL.WEIGHTS_SKIP says: %s", ", ".join(skipped))
        kept = {name: value for name, value in weights.items() if name not in skipped}
        if self.reset_classes:
            theirs, own = _class_names(checkpoint.get("config", "")), _class_names(self.config)
            kept = with_rows_of_classes(kept, self.model, theirs=theirs, own=own)
        if not checkpoint.get("matching_heuristics"):  # with it, the names are still to be matched
            kept = _fit(kept, self.model.state_dict())
        return super()._load_model(checkpoint | {"model": kept})


def _class_names(config: str) -> list[str]:
    """MODEL.PROMPT.CLASS_NAMES of a config as YAML; empty if there is none."""
    return (
        [name.strip() for name in parse_config(config, where="the config").MODEL.PROMPT.CLASS_NAMES] if config else []
    )


def unwrapped(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights without the prefix that DistributedDataParallel adds to every name."""
    prefix = "module." if all(name.startswith("module.") for name in weights) else ""
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def _renamed(weights: dict[str, Any], own: Mapping[str, Tensor]) -> dict[str, Any]:
    """The weights under their current names, also if the file is of an older version or of a wrapped model."""
    weights = unwrapped(weights)
    for old, new in RENAMED.items():
        if old in weights and old not in own and new in own and new not in weights:
            weights = {new if name == old else name: value for name, value in weights.items()}
            logger.info("%s is called %s now; its value is taken from the older file", old, new)
    return weights


def _fit(weights: Mapping[str, Tensor | np.ndarray], own: Mapping[str, Tensor]) -> dict[str, Tensor | np.ndarray]:
    """The weights, after checks that they can be loaded; shortened tables are filled up."""
    if differing := shape_differences(weights, own):
        raise CheckpointError(
            "these weights have other shapes than the model:\n" + "\n".join(differing) + "\n"
            "Use the config that the file was made with. If only the classes are others, set "
            "MODEL.WEIGHTS_RESET_CLASSES True; or name the parameters to leave out in MODEL.WEIGHTS_SKIP"
        )
    if weights and not any(name in own for name in weights):
        raise CheckpointError(
            f"none of its {len(weights)} names fits the model (the file has {next(iter(weights))!r}, ..., the model "
            f"{next(iter(own))!r}, ...). If the file is from another project, use tools/convert_checkpoint.py"
        )
    filled = dict(weights)
    for name, value in weights.items():
        if is_shorter_table(name, value, own):
            rows = len(value)
            logger.info("%s: the file has the first %d of %d rows; the others are kept", name, rows, len(own[name]))
            filled[name] = torch.cat([torch.as_tensor(value).to(own[name]), own[name][rows:]])
    return filled


def is_shorter_table(name: str, value: Tensor | np.ndarray, own: Mapping[str, Tensor]) -> bool:
    """Whether a file has only the first rows of one of the model's tables that may be shortened."""
    if not (name.endswith(SHORTER_TABLES) and name in own):
        return False
    return value.shape[1:] == own[name].shape[1:] and len(value) < len(own[name])


def shape_differences(weights: Mapping[str, Tensor | np.ndarray], own: Mapping[str, Tensor]) -> list[str]:
    """One line `name: file (3, 4), model (3, 5)` per weight that has another shape in the model; see SHORTER_TABLES."""
    return [
        f"  {name}: file {tuple(value.shape)}, model {tuple(own[name].shape)}"
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape and not is_shorter_table(name, value, own)
    ]
