"""Takes over the weights of a model with other classes: what depends on a class is kept for classes of the same name.

A module whose parameters have a row per class tells so in an attribute `class_rows`, {parameter: (lead, groups)}: first
`lead` rows of something else, then `groups` times K rows.

Shapes: C classes, K = C + 1 (last = no object).
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


def with_rows_of_classes(
    weights: Mapping[str, Tensor | np.ndarray], model: nn.Module, *, theirs: Sequence[str], own: Sequence[str]
) -> dict[str, Tensor | np.ndarray]:
    """The weights with the rows that the model's classes need; the log says what is kept and what starts fresh.

    Rows of classes that both have, of no object, and what comes before the rows of classes are the file's; others are
    the model's, that is, fresh. Parameters that do not fit even so are left as they are, for the check of shapes.

    Args:
        weights: of a file, by their names in the model.
        theirs: names of the file's C classes; empty if it does not tell them: then no class is shared.
        own: names of the model's C classes.
    """
    layouts = {name: layout for name, layout in _class_rows(model).items() if name in weights}
    if not layouts:
        logger.warning("MODEL.WEIGHTS_RESET_CLASSES: no weight depends on the number of classes, so all are kept")
        return dict(weights)
    if len({(len(weights[name]) - lead) / groups for name, (lead, groups) in layouts.items()}) > 1:
        return dict(weights)  # not only the classes differ, but also the number of queries or contexts
    shared = [(own.index(name), theirs.index(name)) for name in own if name in theirs]
    kept = [own[position] for position, _ in shared]
    logger.warning(
        "MODEL.WEIGHTS_RESET_CLASSES: of %s, rows are kept for %s, and start fresh for %s%s; all else is kept",
        ", ".join(layouts),
        ", ".join([*kept, "no object"]),
        ", ".join(name for name in own if name not in kept) or "none",
        "" if theirs else " (the file does not name its classes)",
    )
    state = model.state_dict()
    return dict(weights) | {
        name: _merged(torch.as_tensor(weights[name]), state[name], lead, groups, shared)
        for name, (lead, groups) in layouts.items()
        if weights[name].shape[1:] == state[name].shape[1:]
    }


def _class_rows(model: nn.Module) -> dict[str, tuple[int, int]]:
    """{name of a parameter in the model: (lead, groups)}."""
    return {
        f"{path}.{name}".removeprefix("."): layout
        for path, module in model.named_modules()
        for name, layout in getattr(module, "class_rows", {}).items()
    }


def _merged(value: Tensor, own: Tensor, lead: int, groups: int, shared: Sequence[tuple[int, int]]) -> Tensor:
    """The model's rows, with those of the file for shared classes: (index in the model, index in the file)."""
    merged = own.clone()
    merged[:lead] = value[:lead]
    ours, theirs = (rows[lead:].unflatten(0, (groups, -1)) for rows in (merged, value))
    for position, index in [*shared, (-1, -1)]:
        ours[:, position] = theirs[:, index]
    return merged
