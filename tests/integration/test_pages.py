"""The Markdown pages of the repository: whatever they link to exists."""

import ast
import re
from pathlib import Path

import pytest
from scripts import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "configs/*.md", "datasets/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"""\]\((?P<link>[^)\s]+)\)|(?:src|srcset)="(?P<picture>[^"]+)\"""")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Headings of a page, as a code host names them, or dotted names that a Python file defines."""
    if path.suffix == ".py":
        return set(defined(ast.parse(path.read_text())))
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def defined(node: ast.AST, prefix: str = "") -> list[str]:
    names = []
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef):
            names += [prefix + inner.name, *defined(inner, f"{prefix}{inner.name}.")]
        elif isinstance(inner, ast.Assign | ast.AnnAssign):
            targets = inner.targets if isinstance(inner, ast.Assign) else [inner.target]
            names += [prefix + target.id for target in targets if isinstance(target, ast.Name)]
    return names


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page):
    file = ROOT / page
    for match in LINK.finditer(FENCED.sub("", file.read_text())):
        link = match["link"] or match["picture"]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path) if path else file
        assert target.exists(), f"{page}: {link} leads to no file"
        assert not anchor or anchor in anchors(target), f"{page}: {link} leads to no heading or name"
