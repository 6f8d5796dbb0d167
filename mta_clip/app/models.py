"""The models that a page offers."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..api.load import load
from ..api.saved_model import method_name
from ..api.segmenter import Segmenter


class Models:
    """Trained models by short names, each loaded when it is first asked for; the first one at once.

    Args:
        sources: what `mta_clip.load` takes: folders of runs, saved models, checkpoints.
        overrides: of their configs: KEY, VALUE, KEY, VALUE, ...

    Raises:
        FileNotFoundError, CheckpointError, KeyError, ValueError: the first model cannot be loaded; see `load`.
    """

    def __init__(self, sources: Sequence[str], overrides: Sequence[Any] = ()):
        self._sources = dict(zip(short_names(sources), sources, strict=True))
        self._overrides = list(overrides)
        self._loaded: dict[str, Segmenter] = {}
        self._lock = threading.Lock()
        self[self.names[0]]

    @property
    def names(self) -> list[str]:
        """Of all models, in the order given."""
        return list(self._sources)

    def __getitem__(self, name: str) -> Segmenter:
        """The model of a name; for errors see `load`, and KeyError."""
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load(self._sources[name], overrides=self._overrides)
            return self._loaded[name]


def describe(model: Segmenter) -> str:
    """A line about a model: what it is, where it runs, what it was trained on and how well it does."""
    parts = [method_name(model.config), f"{len(model.class_names)} classes", f"on {model.config.MODEL.DEVICE}"]
    if (score := model.metrics.get("sem_seg/mIoU")) is not None:
        parts.append(f"{score:.1f} mIoU")
    return " · ".join(parts)


def short_names(sources: Sequence[str]) -> list[str]:
    """The ends of paths, as many parts of each as make them differ.

    Raises:
        ValueError: a path is given twice.
    """
    parts = [Path(source).parts for source in sources]
    if len({*parts}) < len(parts):
        raise ValueError(f"a model is named twice: {', '.join(sources)}")
    for length in range(1, max(map(len, parts)) + 1):
        names = [str(Path(*path[-length:])) for path in parts]
        if len({*names}) == len(names):
            break
    return names
