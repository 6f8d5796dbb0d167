"""Converts released checkpoints into ours, and reports what became of every parameter."""

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from .checkpointer import shape_differences, unwrapped
from .readers import METADATA_PACKAGES, CheckpointError, read_checkpoint
from .sources import SOURCES, Dropped, translate


@dataclass
class Conversion:
    """What became of the parameters of a file."""

    weights: dict[str, Tensor] = field(default_factory=dict)  # by our names; floating-point ones as float32
    origin: dict[str, str] = field(default_factory=dict)  # official name by our name
    dropped: dict[str, str] = field(default_factory=dict)  # reason by official name, or by the key of other content
    missing: list[str] | None = None  # parameters of the model that the file does not have; None: no model was given

    def report(self, *, verbose: bool = False) -> str:
        """Tables of what was converted, dropped and not found: per module, or with `verbose` per parameter."""
        label = str if verbose else _module_of
        numbers: Counter[tuple[str, str]] = Counter()
        parameters: Counter[tuple[str, str]] = Counter()
        for name, tensor in self.weights.items():
            key = label(self.origin[name]), label(name)
            parameters[key] += 1
            numbers[key] += tensor.numel()
        rows = [(*key, parameters[key], numbers[key]) for key in parameters]
        rows.append(("total", "", len(self.weights), sum(numbers.values())))
        text = tabulate(rows, headers=["in the file", "here", "tensors", "numbers"], intfmt=",")
        dropped = Counter((label(name), reason) for name, reason in self.dropped.items())
        if dropped:
            reasons = [(name, count, reason) for (name, reason), count in dropped.items()]
            text += "\n\n" + tabulate(reasons, headers=["dropped", "entries", "why"])
        if self.missing:
            missing = Counter(label(name) for name in self.missing)
            text += "\n\n" + tabulate(
                missing.items(), headers=["not in the file: stays as the model is built", "tensors"]
            )
        return text


def convert_checkpoint(path: str | Path, source: str, *, drop: Sequence[str] = ()) -> Conversion:
    """Reads a released file and renames its weights.

    Args:
        source: a key of SOURCES.
        drop: shell patterns of official names to leave out.

    Raises:
        KeyError: unknown source.
        FileNotFoundError: the file does not exist.
        CheckpointError: see `read_checkpoint`; or it has unknown names, two names for one parameter, or no weights.
    """
    rules = SOURCES[source]
    content = read_checkpoint(path, metadata_packages=METADATA_PACKAGES)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; expected weights by name")
    conversion = Conversion()
    for key in rules.keys:
        if isinstance(content.get(key), Mapping):
            conversion.dropped |= dict.fromkeys((str(other) for other in content if other != key), "not a weight")
            content = content[key]
            break
    unknown = []
    for name, value in unwrapped({str(name): value for name, value in content.items()}).items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in drop):
            conversion.dropped[name] = "asked for on the command line"
            continue
        try:
            renamed = translate(name, rules.names)
        except KeyError:
            unknown.append(name)
            continue
        if isinstance(renamed, Dropped):
            conversion.dropped[name] = renamed
        else:
            _add(conversion, path, name, renamed, value)
    if unknown:
        raise CheckpointError(
            f"{path}: {len(unknown)} names are not those of {source} files:\n  " + "\n  ".join(unknown) + "\n"
            "Is it a file of another project or version? Names that are not needed can be left out with --drop PATTERN"
        )
    if not conversion.weights:
        raise CheckpointError(f"{path}: none of its entries is a weight of {source}")
    conversion.weights = rules.finish(conversion.weights)
    return conversion


def _add(conversion: Conversion, path: str | Path, name: str, renamed: str, value: object) -> None:
    if not isinstance(value, (Tensor, np.ndarray)):
        raise CheckpointError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
    if renamed in conversion.weights:
        raise CheckpointError(f"{path}: {conversion.origin[renamed]} and {name} are the same parameter here, {renamed}")
    tensor = torch.as_tensor(value).detach()
    conversion.weights[renamed] = tensor.float() if tensor.is_floating_point() else tensor
    conversion.origin[renamed] = name


def fit_to_model(conversion: Conversion, own: Mapping[str, Tensor]) -> None:
    """Fills in what is missing for a model's state dict, and drops BatchNorm counters that its norms do not have.

    Raises:
        CheckpointError: a parameter has another shape, or the model has no such parameter; each is listed.
    """
    for name in [name for name in conversion.weights if name not in own and name.endswith(".num_batches_tracked")]:
        del conversion.weights[name]
        conversion.dropped[conversion.origin[name]] = "a counter that the model's norm does not have"
    problems = shape_differences(conversion.weights, own)
    for name, tensor in conversion.weights.items():
        if name not in own:
            problems.append(f"  {name}: file {tuple(tensor.shape)}, not in the model")
    if problems:
        lines = "\n".join(problems)
        raise CheckpointError(
            f"the file does not fit the model of the config, {len(problems)} parameters differ:\n{lines}\n"
            "Choose the config (and KEY VALUE overrides) that the file was trained with, or leave parameters out with "
            "--drop PATTERN (of their names in the file)"
        )
    conversion.missing = [name for name in own if name not in conversion.weights]


def _module_of(name: str) -> str:
    """`backbone.res2.0.conv1.weight` -> `backbone.res2`: two levels say enough in a table."""
    parts = name.split(".")
    return ".".join(parts[:2] if len(parts) > 2 else parts[:1])
