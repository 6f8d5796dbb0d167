"""Which form of an operator runs: decided here, by the device of its first argument, and nowhere else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_plain_only = False


def dispatch(plain: Callable, *, everywhere: Callable | None = None, **by_device: Callable) -> Callable:
    """An operator with several forms that give the same numbers up to rounding.

    Args:
        plain: the definition; runs where there is no other form, and within `plain_forms`.
        everywhere: a faster form for all devices without one of their own.
        by_device: faster forms by device type, such as `cpu=`.

    Returns:
        A function with the arguments of `plain`, a tensor first, that runs the form for that tensor's device.
    """

    def operator(tensor, *args, **kwargs):
        fast = None if _plain_only else by_device.get(tensor.device.type, everywhere)
        return (fast or plain)(tensor, *args, **kwargs)

    operator.__doc__, operator.__name__ = plain.__doc__, plain.__name__
    operator.plain = plain
    return operator


@contextmanager
def plain_forms() -> Iterator[None]:
    """Runs every operator in its plain form: for exports, and to see what a fast form changes."""
    global _plain_only
    before, _plain_only = _plain_only, True
    try:
        yield
    finally:
        _plain_only = before
