"""The notebooks: their stored outputs, and a run of each in small."""

import itertools
import re

import pytest
from scripts import ROOT, load_script

pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: uv sync --group notebooks")
pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel: uv sync --group notebooks")

import nbformat

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 300_000
PRIVATE = re.compile(r"/(home|root|tmp|work|Users|usr|var)/|Warning|Traceback", re.IGNORECASE)


def outputs_of(cell) -> list:
    return cell.outputs if cell.cell_type == "code" else []


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_outputs_are_stored_and_fit_to_be_shown(notebook):
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    assert notebook.stat().st_size < MOST_BYTES
    assert set(content.metadata) == {"kernelspec", "language_info"} and content.metadata.kernelspec.name == "python3"
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run tools/run_notebooks.py"
    assert not any(cell.metadata for cell in content.cells)
    outputs = [output for cell in code for output in outputs_of(cell)]
    kinds = {output.get("name", output.output_type) for output in outputs}
    assert kinds == {"stdout", "execute_result"}  # no errors, no warnings
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)
    texts = [output.get("text") or output.data.get("text/plain", "") for output in outputs]
    assert not [text for text in texts if PRIVATE.search(text)]


def test_a_sentence_stands_before_each_cell_of_code(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    assert cells[0].source.startswith("# ")
    for before, after in itertools.pairwise(cells):
        # What a command needs, and what it has made, may stand beside it.
        assert "markdown" in (before.cell_type, after.cell_type) or "%%bash" in before.source + after.source


@pytest.mark.slow
def test_it_runs(notebook, tmp_path):
    stored = nbformat.read(notebook, as_version=4)
    run = load_script("tools/run_notebooks.py").execute(notebook, tmp_path, ITERATIONS="40", STEPS="5")
    for before, after in zip(stored.cells, run.cells, strict=True):
        kinds = [[output.output_type for output in outputs_of(cell)] for cell in (before, after)]
        assert kinds[0] == kinds[1], after.source
