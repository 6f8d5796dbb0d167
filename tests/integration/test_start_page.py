"""docs/start.md: the lines that turn masks in colours into label maps; test_page_runs.py runs the rest of the page."""

import numpy as np
from page_blocks import blocks
from PIL import Image

COLORS = [(10, 0, 0), (0, 20, 0), (10, 20, 0)]


def test_masks_in_colours_become_indices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "streets" / "colored").mkdir(parents=True)
    lines = [f"class {index}\t{r} {g} {b}\n" for index, (r, g, b) in enumerate(COLORS)]
    (tmp_path / "streets" / "names.txt").write_text("".join(lines))
    labels = np.random.default_rng(0).integers(0, 4, (5, 7))
    pixels = np.array([*COLORS, (1, 2, 3)], np.uint8)[labels]
    Image.fromarray(pixels).save(tmp_path / "streets" / "colored" / "a.png")
    (code,) = [block.code for block in blocks("docs/start.md") if "streets/colored" in block.code]
    exec(compile(code, "start.md", "exec"), {})
    written = np.array(Image.open(tmp_path / "streets" / "labels" / "a.png"))
    assert np.array_equal(written, np.where(labels == 3, 255, labels)) and written.dtype == np.uint8
