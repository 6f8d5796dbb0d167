"""Chooses the form of an operator that runs, by the device of its first argument or by name."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

_plain_only = False


class Operator(Protocol):
    """An operator in several forms; see `dispatch`."""

    plain: Callable
    forms: tuple[str, ...]
    chosen: Callable[..., Callable]

    def __call__(self, tensor: Tensor, *args: Any, form: str = "auto", **kwargs: Any) -> Any:
        """Runs the form of this name, or with "auto" that of the tensor's device."""


def dispatch(
    plain: Callable,
    *,
    everywhere: Callable | None = None,
    named: Mapping[str, Callable] | None = None,
    **by_device: Callable,
) -> Operator:
    """Combines several forms of an operator, which give the same numbers up to rounding.

    Args:
        plain: the definition; runs on devices without another form, and within `plain_forms`.
        everywhere: a faster form for all devices that have none of their own.
        named: forms that a caller may ask for by `form=`.
        by_device: faster forms by device type, such as `cpu=`.

    Returns:
        A function with the arguments of `plain`, and `form`: a name, or "auto". The first argument is a tensor; with
        "auto", its device decides which form runs. All values of `form` are in the attribute `forms`, and
        `chosen(device_type, form)` is the form that runs.
    """
    named = named or {}

    def chosen(device_type: str, form: str = "auto") -> Callable:
        fast = by_device.get(device_type, everywhere) if form == "auto" else named[form]
        return plain if _plain_only else fast or plain

    def operator(tensor: Tensor, *args: Any, form: str = "auto", **kwargs: Any) -> Any:
        return chosen(tensor.device.type, form)(tensor, *args, **kwargs)

    operator.__doc__, operator.__name__ = plain.__doc__, plain.__name__
    vars(operator).update(plain=plain, forms=("auto", *named), chosen=chosen)
    return operator  # type: ignore[return-value]  # with the attributes from here


@contextmanager
def plain_forms() -> Iterator[None]:
    """Runs every operator in its plain form: for exports, and to compare fast forms with the definition.

    Yields:
        None; the forms are chosen by device again when the context ends.
    """
    global _plain_only
    before, _plain_only = _plain_only, True
    try:
        yield
    finally:
        _plain_only = before
