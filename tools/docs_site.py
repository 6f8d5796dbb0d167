"""Hooks of MkDocs (mkdocs.yml): what makes a site of pages that also read well in the repository.

Pages link to each other and to files of the repository by relative paths, as on a code host. In the site

- README.md, CONTRIBUTING.md and the like, which lie outside docs/, are pages too, as are notebooks with their outputs;
- a link to a module of the package, such as `../mta_clip/predictor.py#SegmentationPredictor`, leads to its place in the
  API reference, of which each module has a page;
- a link to other Python code, such as `../tests/test_files.py#test_a_name`, leads to its line in a coloured copy;
- a link to any other file leads to a copy of it;
- `<picture>` with a source for dark pages becomes two images, of which the page's own switch shows one.

Links that lead nowhere are left as they are, so that MkDocs reports them.
"""

import ast
import json
import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mta_clip"
# files outside docs/ -> their pages
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "configs/README.md": "configs.md",
    "datasets/README.md": "datasets.md",
}
PAGES |= {f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s:]+?)(?P<anchor>#[^)\s]*)?(?=\))")
PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img src="(?P<light>[^"]+)" alt="(?P<alt>[^"]*)"[^>]*>\s*</picture>'
)


def modules() -> list[str]:
    """Public modules of the package, as paths of their files in the repository, sorted."""
    public = (path for path in (ROOT / PACKAGE).rglob("*.py") if path.name == "__init__.py" or path.name[0] != "_")
    return sorted(path.relative_to(ROOT).as_posix() for path in public)


def reference_page(module: str) -> str:
    """mta_clip/data/mapper.py -> reference/data/mapper.md; a package's __init__.py -> its index.md."""
    path = PurePosixPath("reference", *PurePosixPath(module).parts[1:])
    names = {"__init__.py": "index.md", "index.py": "index_py.md"}
    return str(path.with_name(names.get(path.name, f"{path.stem}.md")))


def dotted(module: str) -> str:
    """mta_clip/data/mapper.py -> mta_clip.data.mapper."""
    return module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Appends the API reference to the navigation."""
    tree: dict[str, dict] = {}
    for module in modules():
        place = tree
        for name in PurePosixPath(reference_page(module)).parts[1:]:
            place = place.setdefault(name, {})
    config.nav.append({"API reference": _navigation(tree, "reference")})
    return config


def _navigation(tree: dict[str, dict], folder: str) -> list:
    pages = sorted(name for name, inner in tree.items() if not inner)
    pages.sort(key=lambda name: name != "index.md")
    leaves = [page if (page := f"{folder}/{name}").endswith("index.md") else {name[:-3]: page} for name in pages]
    return leaves + [{name: _navigation(inner, f"{folder}/{name}")} for name, inner in sorted(tree.items()) if inner]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside docs/, and those of the API reference."""
    for source, page in PAGES.items():
        path = ROOT / source
        where = {"content": notebook_page(path)} if path.suffix == ".ipynb" else {"abs_src_path": str(path)}
        files.append(File.generated(config, page, **where))
    for module in modules():
        name = dotted(module)
        files.append(File.generated(config, reference_page(module), content=f"# {name}\n\n::: {name}\n"))
    return files


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its texts, its code, and what this had printed and drawn when it was stored."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```{'bash' if source.startswith('%%bash') else 'python'}\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if jpeg := "".join("".join(data.get("image/jpeg", "")).split()):
                parts.append(f"![Drawn by the cell above](data:image/jpeg;base64,{jpeg})")
            else:
                text = "".join(output.get("text") or data["text/plain"])
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)


def source_page(path: str, code: str) -> str:
    """Python code as a page in HTML; line 3 has the anchor "line-3"."""
    style = HtmlFormatter(full=True, title=path, linenos="inline", lineanchors="line")
    return highlight(code, PythonLexer(stripnl=False), style)


def line_of(name: str, code: str) -> int | None:
    """The line that defines a function, class or method, such as "TestModule.test_golden"; None if there is none."""
    node: ast.AST | None = ast.parse(code)
    for part in name.split("."):
        node = next((inner for inner in ast.iter_child_nodes(node) if getattr(inner, "name", "") == part), None)
        if node is None:
            return None
    return node.lineno


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites links and pictures; adds the files that links lead to."""
    here = page.file.src_uri
    if here.startswith("reference/"):
        return markdown
    source = next((path for path, name in PAGES.items() if name == here), f"docs/{here}")
    pictures = PICTURE.sub(r"![\g<alt>](\g<light>#only-light)![\g<alt>](\g<dark>#only-dark)", markdown)
    return LINK.sub(lambda link: _link(link, source, here, config, files), pictures)


def _link(link: re.Match[str], source: str, here: str, config: MkDocsConfig, files: Files) -> str:
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
    anchor = link["anchor"] or ""
    if path in PAGES:
        page = PAGES[path]
    elif path.startswith("docs/"):
        page = path.removeprefix("docs/")
    elif path.startswith(f"{PACKAGE}/") and path.endswith(".py"):
        page = reference_page(path)
        anchor = f"#{dotted(path)}.{anchor[1:]}" if anchor else ""
    elif path.endswith(".py") and (ROOT / path).is_file():
        page, source_code = f"files/{path}.html", (ROOT / path).read_text(encoding="utf-8")
        if anchor:
            line = line_of(anchor[1:], source_code)
            if line is None:
                return link[0]
            anchor = f"#line-{line}"
        if page not in files.src_uris:
            files.append(File.generated(config, page, content=source_page(path, source_code)))
    elif (ROOT / path).is_file():
        page = f"files/{path}" + ("" if PurePosixPath(path).suffix in (".txt", ".json") else ".txt")
        if page not in files.src_uris:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    else:
        return link[0]
    return posixpath.relpath(page, posixpath.dirname(here) or ".") + anchor
