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


def split_names(text: str) -> list[str] | None:
    """The names in what somebody typed, separated by commas or line breaks; None if there are none."""
    return [name for line in text.splitlines() for name in map(str.strip, line.split(",")) if name] or None


def find_classes(names: Sequence[str], among: Sequence[str]) -> list[int]:
    """For each name, the index of its class in `among`, whatever the case of letters; -1 if there is none.

    That is the class of the same synonyms, or else the first one that shares a synonym with the name.

    Raises:
        ValueError: see `split_synonyms`.
    """
    whole: dict[tuple[str, ...], int] = {}
    single: dict[str, int] = {}
    for position, synonyms in enumerate(map(_folded, among)):
        whole.setdefault(synonyms, position)
        for synonym in synonyms:
            single.setdefault(synonym, position)
    return [
        whole.get(synonyms, min((single[s] for s in synonyms if s in single), default=-1))
        for synonyms in map(_folded, names)
    ]


def are_seen(names: Sequence[str], *, trained: Sequence[str], held_out: Collection[str] = ()) -> list[bool]:
    """For each name, whether a class that had labels in training is called so, see `find_classes`.

    Args:
        trained: the classes of the model.
        held_out: those of them that had no labels; they are unseen even if they share a synonym with one that had.

    Raises:
        ValueError: see `split_synonyms`.
    """
    positions = find_classes(names, [name for name in trained if name not in held_out])
    return [position >= 0 and name not in held_out for name, position in zip(names, positions, strict=True)]


def _folded(name: str) -> tuple[str, ...]:
    return tuple(synonym.casefold() for synonym in split_synonyms(name))
