"""Makes detectron2's Python part importable on a current stack, without a compiler.

`patch_detectron2()` runs once, at `import mta_clip`. It only adds what is missing, so it does not change an official,
compiled detectron2. It does not import detectron2, which takes seconds.
"""

import sys
import types
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec

import numpy as np
from PIL import Image

INSTALL_HELP = """detectron2 is not installed, and mta_clip extends it. Get it in one of two ways:
  1. its Python part from PyPI, no compiler needed (torch must be installed already):
       pip install -U "pip<26" "setuptools<80" wheel
       pip install --use-pep517 --no-build-isolation --no-deps detectron2-cdo==0.5 \\
           -C--global-option=build_py -C--build-option=--skip-build
       pip install termcolor yacs tabulate cloudpickle omegaconf hydra-core black
  2. the official package, built from source: https://github.com/facebookresearch/detectron2
     (see its INSTALL page; version 0.5 and all later ones work).
`make setup` or `uv sync` in a clone of mta-clip does the first for you."""


def patch_detectron2() -> None:
    """Adds the names that detectron2 0.5 expects of older libraries; ModuleNotFoundError if it is not installed."""
    detectron2 = find_spec("detectron2")
    if detectron2 is None:
        raise ModuleNotFoundError(INSTALL_HELP, name="detectron2")
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR  # removed in Pillow 10; a default argument in detectron2.data.transforms
    for alias, builtin in (("bool", bool), ("int", int), ("float", float), ("object", object)):
        if alias not in np.__dict__:
            setattr(np, alias, builtin)  # removed in NumPy 1.24; used in detectron2.structures.masks and data.build
    compiled = "detectron2._C"  # imported by detectron2.layers, called by nothing here
    if compiled not in sys.modules and PathFinder.find_spec(compiled, detectron2.submodule_search_locations) is None:
        sys.modules[compiled] = _compiled_part_stub(compiled)


def _compiled_part_stub(name: str) -> types.ModuleType:
    stub = types.ModuleType(name, "Stand-in for detectron2's compiled part, which mta_clip does not use.")
    stub.__spec__ = ModuleSpec(name, loader=None)
    stub.get_compiler_version = lambda: "not compiled"  # detectron2.utils.collect_env calls these three
    stub.get_cuda_version = lambda: "not compiled"
    stub.has_cuda = lambda: False
    return stub
