"""Optional dependencies: imported where they are used, with an error that names the extra."""

from types import ModuleType


def import_transformers(purpose: str) -> ModuleType:
    """The module transformers.

    Raises:
        ImportError: it is not installed; the message names `purpose` and the extra.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs transformers, an optional dependency: pip install 'mta-clip[hf]'"
        ) from error
    return transformers
