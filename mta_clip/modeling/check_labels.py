"""The check of label values that models and criteria share.

Shapes: C classes.
"""

from collections.abc import Sequence

from torch import Tensor


def check_labels(labels: Tensor, num_classes: int | None, where: str, *, also: Sequence[int] = ()) -> None:
    """Raises an error if a label is neither a class nor one of the values in `also`.

    Args:
        labels: any shape, any integer type.
        num_classes: C, so that classes are 0..C-1; None allows any number from 0 on.
        where: origin of the labels, for the message.
        also: other allowed values, such as the ignore label and the value of unlabelled pixels.

    Raises:
        ValueError: any other value; the message names the first ten.
    """
    wrong = labels < 0 if num_classes is None else (labels < 0) | (labels >= num_classes)
    for value in also:
        wrong &= labels != value
    if not wrong.any():
        return
    values = labels[wrong].unique().tolist()
    found = f"label {values[0]} is" if len(values) == 1 else f"labels {values[:10]} are"
    upper = "the number of classes - 1" if num_classes is None else str(num_classes - 1)
    others = f" nor {' or '.join(map(str, also))}" if also else ""
    raise ValueError(
        f"{where}: {found} neither a class (0..{upper}){others}; check MODEL.SEM_SEG_HEAD.NUM_CLASSES, "
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE and the dataset's label ids"
    )
