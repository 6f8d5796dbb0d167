#!/usr/bin/env python
"""Runs the notebooks and stores their outputs; to do after a change of one, or of what they show.

    python tools/run_notebooks.py                          # all of them: minutes on two cores
    python tools/run_notebooks.py notebooks/contexts.ipynb

Each runs in an empty folder, and is written only if all its cells run. Needs nbclient and ipykernel
(`make notebooks`, or `uv sync --group notebooks`).
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(notebook: Path, folder: Path, **environment: str) -> NotebookNode:
    """The notebook with its outputs, run in a folder, with nothing of this machine in its metadata.

    Args:
        environment: variables for its kernel, such as the size of everything.

    Raises:
        CellExecutionError: a cell fails.
    """
    content = nbformat.read(notebook, as_version=4)
    paths = {"PATH": Path(sys.executable).parent, "PYTHONPATH": ROOT}  # mta-clip, and this working tree
    for name, path in paths.items():
        environment[name] = os.pathsep.join(filter(None, (str(path), os.environ.get(name))))
    environment["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of tqdm, which names a path
    options = {"timeout": 900, "kernel_name": "python3", "coalesce_streams": True}
    client = NotebookClient(content, resources={"metadata": {"path": str(folder)}}, **options)
    client.execute(env=os.environ | environment)
    content.metadata = METADATA
    for cell in content.cells:
        cell.metadata = {}
    return content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=NOTEBOOKS)
    for notebook in parser.parse_args().notebooks:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(execute(notebook, Path(folder)), notebook)
        print(f"{notebook}: {notebook.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
