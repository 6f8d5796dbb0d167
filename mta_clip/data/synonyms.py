"""Several names of one class, separated by `;` as in "person;man;woman", and classes that two lists have in common."""

from collections.abc import Sequence

SEPARATOR = ";"


def split_synonyms(name: str) -> list[str]:
    """The synonyms in a class name, without white space around them: one, if it has no `;`.

    Raises:
        ValueError: one of them is empty.
    """
    synonyms = [part.strip() for part in name.split(SEPARATOR)]
    if "" in synonyms:
        raise ValueError(f"the class name {name!r} is empty, or has an empty synonym beside {SEPARATOR!r}")
    return synonyms


def find_classes(names: Sequence[str], among: Sequence[str]) -> list[int]:
    """For each name, the index of the first class in `among` that shares a synonym with it, whatever their case; or -1.

    Raises:
        ValueError: see `split_synonyms`.
    """
    index: dict[str, int] = {}
    for position, name in enumerate(among):
        for synonym in split_synonyms(name):
            index.setdefault(synonym.casefold(), position)
    found = ([index[s] for s in map(str.casefold, split_synonyms(name)) if s in index] for name in names)
    return [min(positions, default=-1) for positions in found]
