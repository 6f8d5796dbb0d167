"""Optional dependencies: imported where they are used, with an error that names the extra."""

import importlib
from types import ModuleType


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports an optional dependency.

    Args:
        extra: name of the extra of this package that installs it.
        purpose: what needs it; the error message starts with this.

    Raises:
        ModuleNotFoundError: it is not installed, wholly or partly.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise ModuleNotFoundError(
            f"{purpose} needs {missing}, an optional dependency: pip install 'mta-clip[{extra}]'", name=missing
        ) from error
