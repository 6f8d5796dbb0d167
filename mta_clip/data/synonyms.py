"""Several names of one class, separated by `;` as in "person;man;woman", and classes that two lists have in common."""

from collections.abc import Collection, Sequence

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


def are_seen(names: Sequence[str], *, trained: Sequence[str], held_out: Collection[str] = ()) -> list[bool]:
    """For each name, whether a class that had labels in training is called so, see `find_classes`.

    Args:
        trained: the classes of the model; if `names` are just these, each is looked up by itself.
        held_out: those of them that had no labels.

    Raises:
        ValueError: see `split_synonyms`.
    """
    if list(names) == list(trained):
        return [name not in held_out for name in names]
    seen = [name for name in trained if name not in held_out]
    return [position >= 0 for position in find_classes(names, seen)]
