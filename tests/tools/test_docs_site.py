import json
import re
from types import SimpleNamespace

import pytest
from scripts import ROOT, load_script

pytest.importorskip("mkdocs", reason="mkdocs is missing: make docs installs it")


@pytest.fixture(scope="module")
def site():
    return load_script("tools/docs_site.py")


@pytest.fixture
def rewrite(site, tmp_path):
    """Rewrites the Markdown of a page of the site; `rewrite.files` has what was added."""
    from mkdocs.config import load_config
    from mkdocs.structure.files import Files

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path))
    config.plugins._current_plugin = "docs_site"  # set while MkDocs calls hooks; files ask for it
    files = Files([])

    def rewrite(markdown, page="export.md"):
        return site.on_page_markdown(markdown, SimpleNamespace(file=SimpleNamespace(src_uri=page)), config, files)

    rewrite.files, rewrite.config = files, config
    return rewrite


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("export.md", "(towers.md#text)", "(towers.md#text)"),
        ("export.md", "(../README.md)", "(index.md)"),
        ("index.md", "(docs/export.md)", "(export.md)"),
        ("configs.md", "(../docs/export.md)", "(export.md)"),
        ("datasets.md", "(../configs/README.md#tagclip)", "(configs.md#tagclip)"),
        ("index.md", "(mta_clip/config.py)", "(reference/config.md)"),
        ("index.md", "(mta_clip/labelling/index.py)", "(reference/labelling/index_py.md)"),
        ("export.md", "(../mta_clip/data/__init__.py)", "(reference/data/index.md)"),
        (
            "export.md",
            "(../mta_clip/predictor.py#SegmentationPredictor)",
            "(reference/predictor.md#mta_clip.predictor.SegmentationPredictor)",
        ),
        ("export.md", "(https://example.org/a.md)", "(https://example.org/a.md)"),
        ("export.md", "(#anchor)", "(#anchor)"),
        ("export.md", "(../no/such_file.txt)", "(../no/such_file.txt)"),
    ],
)
def test_links_lead_to_the_pages_of_the_site(rewrite, page, link, expected):
    assert rewrite(f"see [it]{link}.", page) == f"see [it]{expected}."


def test_files_that_are_linked_are_copied_once(rewrite):
    text = rewrite("[a](../.gitignore) and [b](../.gitignore)")
    assert text == "[a](files/.gitignore.txt) and [b](files/.gitignore.txt)"
    assert [file.src_uri for file in rewrite.files] == ["files/.gitignore.txt"]


def test_a_link_to_a_test_leads_to_its_line(rewrite):
    path = "tests/modeling/pixel_decoder/test_deformable_attention.py"
    text = rewrite(f"[a](../{path}) [b](../{path}#TestModule.test_equals_its_definition) [c](../{path}#test_no_such)")
    (page,) = rewrite.files
    line = int(re.fullmatch(rf"\[a\]\(files/{path}.html\) \[b\]\(files/{path}.html#line-(\d+)\) .*", text)[1])
    assert "def test_equals_its_definition(" in (ROOT / path).read_text().splitlines()[line - 1]
    assert f'name="line-{line}"' in page.content_string
    assert text.endswith(f"[c](../{path}#test_no_such)")  # left for MkDocs to report


def test_a_picture_has_a_light_and_a_dark_form(rewrite):
    picture = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="pictures/way-dark.svg">
  <img src="pictures/way.svg" alt="The way">
</picture>"""
    assert rewrite(picture) == "![The way](pictures/way.svg#only-light)![The way](pictures/way-dark.svg#only-dark)"


def test_a_notebook_is_a_page_with_its_outputs(site, rewrite, tmp_path):
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["mIoU 97\n", "done\n"]},
        {"output_type": "execute_result", "data": {"image/jpeg": "ab\ncd\n", "text/plain": "<Image>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "see [photos](own_photos.ipynb)"]},
        {"cell_type": "code", "source": ["%%bash\n", "mta-clip info"], "outputs": outputs},
        {"cell_type": "code", "source": "1 + 1", "outputs": [{"data": {"text/plain": ["2"]}}]},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    page = site.notebook_page(tmp_path / "a.ipynb")
    assert page.split("\n\n") == [
        "# Title\nsee [photos](own_photos.ipynb)",
        "```bash\n%%bash\nmta-clip info\n```",
        "```text\nmIoU 97\ndone\n```",
        "![Drawn by the cell above](data:image/jpeg;base64,abcd)",
        "```python\n1 + 1\n```",
        "```text\n2\n```",
    ]
    assert "(own_photos.md)" in rewrite(page, "notebooks/contexts.md")


def test_every_public_module_has_a_page_of_its_own(site, rewrite):
    site.on_files(rewrite.files, rewrite.config)
    pages = {file.src_uri: file for file in rewrite.files}
    modules = site.modules()
    assert len({site.reference_page(module) for module in modules}) == len(modules) > 100
    assert "::: mta_clip.labelling.index\n" in pages["reference/labelling/index_py.md"].content_string
    assert pages["security.md"].abs_src_path == str(ROOT / "SECURITY.md")
    assert not any("/__main__" in page or "/_" in page for page in pages)


def test_the_navigation_holds_every_page_of_the_reference(site, rewrite):
    navigation = site.on_config(rewrite.config).nav[-1]["API reference"]

    def pages(entries):
        for entry in entries:
            inner = entry if isinstance(entry, str) else next(iter(entry.values()))
            yield from [inner] if isinstance(inner, str) else pages(inner)

    assert sorted(pages(navigation)) == sorted(map(site.reference_page, site.modules()))
    assert navigation[0] == "reference/index.md"
