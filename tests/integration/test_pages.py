"""The Markdown pages of the repository: whatever they link to, name or show exists."""

import ast
import re
from pathlib import Path

import pytest
from page_blocks import PAGES, blocks, commands
from scripts import ROOT

from mta_clip.cli.main import COMMANDS, parser_of
from mta_clip.cli.options import parse
from mta_clip.config_loader import load_config

LINK = re.compile(r"""\]\((?P<link>[^)\s]+)\)|(?:src|srcset)="(?P<picture>[^"]+)\"""")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LANGUAGES = {"bash", "dockerfile", "json", "python", "text", "yaml"}
OTHER_PROGRAMS = {
    "cat",
    "chromium",
    "curl",
    "git",
    "mkdocs",
    "pip",
    "podman",
    "python3",
    "srun",
    "torchrun",
    "twine",
    "uv",
}
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SHARED_OPTIONS = ROOT / "mta_clip" / "cli" / "options.py"
SETS = re.compile(r"[A-Z_0-9]+=\S*\Z")


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


@pytest.mark.parametrize("page", PAGES)
def test_blocks_say_what_they_are_and_can_be_read(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.where}: {block.language!r}"
        if block.language == "python":
            compile(block.code, block.where, "exec")
        elif block.language == "bash":
            for words in commands(block.code):
                check_command(words, block.where)


def check_command(words: list[str], where: str) -> None:
    """Programs, scripts, targets and options exist; options of mta-clip fit, and so do the configs that they name."""
    words = [word for word in words if word != "&&"]
    while words and (SETS.match(words[0]) or words[0] in ("export", "nice", ".", "cd")):
        words = words[2:] if words[0] in (".", "cd") else words[1:]
    if not words or re.match(r"\w+=\$\(", words[0]):
        return
    program, rest = words[0], words[1:]
    where = f"{where}: {' '.join(words)}"
    if program == "mta-clip":
        check_mta_clip(rest, where)
    elif program == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS, where
    elif program == "pytest" or rest[:2] == ["-m", "pytest"]:
        paths = [word for word in rest if word.startswith("tests")]
        assert all((ROOT / path.split("::")[0]).exists() for path in paths), where
    elif program == "python" and not rest[0].startswith("-"):
        script = ROOT / rest[0]
        if script.name in ("train_net.py", "demo.py"):
            return check_mta_clip(["train" if script.name == "train_net.py" else "predict", *rest[1:]], where)
        assert script.is_file() or "/" not in rest[0], where
        if script.is_file():
            source = script.read_text() + SHARED_OPTIONS.read_text()
            options = [word.split("=")[0] for word in rest[1:] if re.match(r"--\w", word)]
            assert all(f'"{option}"' in source for option in options), where
    else:
        assert program in OTHER_PROGRAMS or program == "python", where


def check_mta_clip(words: list[str], where: str) -> None:
    """The arguments are accepted; a config of the package and what overrides it fit together."""
    if words[0] == "COMMAND":
        return
    assert words[0] in COMMANDS, where
    words = [word for word in words if word not in ("--eval-only", "...")]
    try:
        args = parse(parser_of(words[0]), words[1:])
    except SystemExit:
        pytest.fail(where)
    config = getattr(args, "config_file", "") or ""
    if config.startswith("configs/") or (ROOT / "configs" / f"{config}.yaml").is_file():
        load_config(config if not config.startswith("configs/") else str(ROOT / config), args.opts)
