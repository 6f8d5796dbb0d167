"""Writes traced graphs as ONNX, torch.export or OpenVINO files, with a description of the model.

Shapes: as in `graphs`.
"""

import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ..extras import import_extra
from ..files import complete_file

OPSET = 20  # the first whose GridSample is the one that PyTorch has
# Modules that a format needs and what to install for them: the extras in pyproject.toml.
EXTRAS = {"onnx": ("onnx", "onnxscript"), "torch": (), "openvino": ("openvino", "onnx", "onnxscript")}
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml"}
AXES = {"images": {0: "batch", 2: "height", 3: "width"}, "text": {0: "names"}}  # what free axes are called
_CHATTY = ("onnxscript", "torch.fx.experimental.symbolic_shapes")  # warn of what their users cannot change


def require_format(name: str, path: str | Path) -> None:
    """Checks a format, the suffix of its file and that its libraries are installed.

    Raises:
        ValueError: unknown format, or another suffix than the format's.
        ModuleNotFoundError: a library is missing; see `import_extra`.
    """
    if name not in SUFFIXES:
        raise ValueError(f"unknown format {name!r}: one of {', '.join(SUFFIXES)}")
    if Path(path).suffix != SUFFIXES[name]:
        raise ValueError(f"{path}: a file of format {name} ends in {SUFFIXES[name]}")
    for module in EXTRAS[name]:
        import_extra(module, name, f"the format {name}")


def write_graph(
    name: str,
    program: ExportedProgram,
    path: str | Path,
    description: Mapping[str, Any],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> list[Path]:
    """Writes a graph in the format `name`.

    Args:
        description: JSON values by name; of an ONNX file they are its metadata (as JSON texts), else a file beside it.
        inputs: names of the input tensors.
        outputs: names of the output tensors.

    Returns:
        The files.

    Raises:
        ModuleNotFoundError, ValueError: see `require_format`.
        OSError: a file cannot be written.
    """
    require_format(name, path)
    with quiet_exporters():
        return _WRITERS[name](program, Path(path), description, inputs, outputs)


def _write_onnx(
    program: ExportedProgram, path: Path, description: Mapping[str, Any], inputs: Sequence[str], outputs: Sequence[str]
) -> list[Path]:
    exported: Any = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=list(outputs),
        verbose=False,
    )
    _name_axes(exported.model.graph)
    exported.model.metadata_props.update({key: json.dumps(value) for key, value in description.items()})
    with complete_file(path) as part:
        exported.save(part)
    return [path]


def _name_axes(graph: Any) -> None:
    """Gives the free axes of inputs and outputs the names of AXES, instead of numbered ones."""
    ir = import_extra("onnx_ir", "onnx", "the format onnx")
    names = {
        str(value.shape[axis].value): name
        for value in graph.inputs
        for axis, name in AXES.get(value.name, {}).items()
        if not isinstance(value.shape[axis], int)
    }
    for value in (*graph.inputs, *graph.outputs):
        sides = [side if isinstance(side, int) else str(side.value) for side in value.shape]
        value.shape = ir.Shape(
            [s if isinstance(s, int) else re.sub(r"\w+", lambda m: names.get(m[0], m[0]), s) for s in sides]
        )


def _write_torch(
    program: ExportedProgram, path: Path, description: Mapping[str, Any], inputs: Sequence[str], outputs: Sequence[str]
) -> list[Path]:
    with complete_file(path) as part, part.open("wb") as file:
        torch.export.save(program, file)
    tensors = {"inputs": list(inputs), "outputs": list(outputs)}
    return [path, _write_description(path, {**description, **tensors})]


def _write_openvino(
    program: ExportedProgram, path: Path, description: Mapping[str, Any], inputs: Sequence[str], outputs: Sequence[str]
) -> list[Path]:
    openvino = import_extra("openvino", "openvino", "the format openvino")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "graph.onnx"
        _write_onnx(program, onnx, {}, inputs, outputs)
        openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=False)
    return [path, path.with_suffix(".bin"), _write_description(path, description)]


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Hides warnings that the exporters log about their own work."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _write_description(path: Path, description: Mapping[str, Any]) -> Path:
    beside = path.with_suffix(".json")
    with complete_file(beside) as part:
        part.write_text(json.dumps(description, indent=2, ensure_ascii=False), encoding="utf-8")
    return beside


_WRITERS: dict[str, Callable[..., list[Path]]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
    "openvino": _write_openvino,
}
