"""The fenced blocks of the Markdown pages, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from scripts import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "configs/*.md", "datasets/*.md")
    for path in ROOT.glob(pattern)
)
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_REASON = re.compile(r"<!-- not run: (?P<reason>[^>]+) -->\n\Z")  # just before a block
_REST = re.compile(r"<!-- not run from here: (?P<reason>[^>]+) -->")  # before all others of a page


@dataclass(frozen=True)
class Block:
    """What stands between two fences.

    Attributes:
        where: page and number of its first line, "docs/python.md:3".
        language: as the fence says.
        code: the lines.
        not_run: why the tests do not run it; "" if they do.
    """

    where: str
    language: str
    code: str
    not_run: str


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        reason = _REASON.search(text[: match.start()]) or _REST.search(text[: match.start()])
        line = text[: match.start()].count("\n") + 2
        found.append(Block(f"{page}:{line}", match["language"], match["code"], reason["reason"] if reason else ""))
    return found


def commands(code: str) -> Iterator[list[str]]:
    """The words of each command of a shell block, without comments; lines that end in a backslash are joined.

    Raises:
        ValueError: a quotation is not closed.
    """
    pending = ""
    for line in code.splitlines():
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation that the next line continues
            pending += "\n"
            continue
        pending = ""
        if words:
            yield words
    if pending.strip():
        raise ValueError(f"not closed: {pending!r}")
