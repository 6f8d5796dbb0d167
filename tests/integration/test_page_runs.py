"""What the pages show is run, as far as it needs no download, no GPU and no hours: see `Block.not_run`.

Training takes two steps here. Lines that install, serve, or call make are left out: continuous integration runs the
README's two commands, browser tests the page, and `test_pages.py` reads them all.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clips import bar_frames, write_clip
from page_blocks import PAGES, blocks, commands
from scripts import ROOT

pytestmark = pytest.mark.slow

SHORT = [
    "SOLVER.MAX_ITER",
    "2",
    "SOLVER.IMS_PER_BATCH",
    "2",
    "TEST.EVAL_PERIOD",
    "2",
    "DATALOADER.NUM_WORKERS",
    "0",
    "MODEL.DEVICE",
    "cpu",
]
SERVERS = ("app", "serve")
VARIES = re.compile(r"pixels: .*?>")  # names and shares of a model that two steps have trained
START = "import sys; from mta_clip.cli.main import main; sys.exit(main())"
RUN = [page for page in PAGES if any(b.language in ("bash", "python") and not b.not_run for b in blocks(page))]


def run(words: list[str], folder: Path) -> None:
    """Runs a command of mta-clip, or a script, as in a clone."""
    if words[0] == "mta-clip" and words[1] not in SERVERS:
        command = [sys.executable, "-c", START, *words[1:], *(SHORT if words[1] == "train" else [])]
    elif words[0] == "python":
        command = [sys.executable, *words[1:]]
    else:
        return
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DETECTRON2_DATASETS": str(folder / "datasets")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A clone in which `make demo` was run (for two steps), with somebody's photos, label maps, names and a video."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("tools", "configs", "mta_clip", "train_net.py", "demo.py"):
        (folder / name).symlink_to(ROOT / name)
    run(["mta-clip", "train", "--config-file", "shapes/mta_clip_tiny", "OUTPUT_DIR", "output/demo"], folder)
    shapes = folder / "datasets" / "shapes" / "train"
    for kind in ("images", "labels"):
        (folder / "streets" / kind).mkdir(parents=True)
        for file in sorted((shapes / kind).iterdir())[:40]:
            shutil.copy(file, folder / "streets" / kind / file.name)
    names = (ROOT / "mta_clip" / "data" / "class_names" / "shapes.txt").read_text()
    (folder / "streets" / "names.txt").write_text(names)
    (folder / "streets" / "colored").mkdir()  # masks for it: test_start_page.py
    (folder / "photos").mkdir()
    for file in sorted((shapes / "images").iterdir())[:3]:
        shutil.copy(file, folder / "photos" / file.name)
    write_clip(folder / "clip.mp4", bar_frames(5), codec="mp4v")
    shutil.copy(folder / "output" / "demo" / "model_final.pth", folder)
    return folder


@pytest.fixture
def clone(made, tmp_path):
    """A copy of it for each page."""
    folder = tmp_path / "clone"
    shutil.copytree(made, folder, symlinks=True)
    return folder


@pytest.mark.parametrize("page", RUN)
def test_what_a_page_shows_runs_and_prints_what_it_says(page, clone, monkeypatch):
    monkeypatch.chdir(clone)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(clone / "datasets"))
    names, printed = {}, None
    for block in blocks(page):
        if block.language == "text" and printed:
            assert VARIES.sub("", printed) == VARIES.sub("", block.code), block.where
            printed = None
        if block.not_run:
            continue
        if block.language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(block.code, block.where, "exec"), names)
            printed = out.getvalue()
        elif block.language == "bash":
            for words in commands(block.code):
                run(words, clone)
