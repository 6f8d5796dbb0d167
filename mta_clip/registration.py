"""Registers models and datasets with Detectron2 as soon as its registries exist.

Importing those registries takes seconds, which `import mta_clip` would otherwise cost everybody.
"""

import functools
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Each package of Detectron2 with registries, and ours that fills them when it is imported.
FILLED_BY = {"detectron2.modeling": "mta_clip.modeling", "detectron2.data": "mta_clip.data"}


def register_with_detectron2() -> None:
    """Registers at once where Detectron2's registries are imported already, elsewhere when they are."""
    if not any(isinstance(finder, _Follower) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Follower())
    for registries, ours in FILLED_BY.items():
        if registries in sys.modules:
            importlib.import_module(ours)


class _Follower(MetaPathFinder):
    """Imports our packages right after those of Detectron2 that they fill."""

    def __init__(self) -> None:
        self.waiting = dict(FILLED_BY)
        self.running = 0  # Detectron2's packages import each other, and ours need them whole
        self.ready: list[str] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, with a loader that also imports our package."""
        ours = self.waiting.pop(fullname, None)  # only once, so that `find_spec` now asks the other finders
        spec = importlib.util.find_spec(fullname) if ours else None
        if ours and spec and spec.loader:
            run = functools.partial(self._run, spec.loader.exec_module, ours)
            spec.loader.exec_module = run  # type: ignore[method-assign]  # of this module alone
        return spec

    def _run(self, run: Callable[[ModuleType], None], ours: str, module: ModuleType) -> None:
        self.running += 1
        try:
            with warnings.catch_warnings():
                # fvcore compiles losses at import, which nobody here uses
                warnings.filterwarnings("ignore", r".*torch\.jit\.script", FutureWarning)
                run(module)
        finally:
            self.running -= 1
        self.ready.append(ours)
        while self.ready and not self.running:
            importlib.import_module(self.ready.pop(0))
