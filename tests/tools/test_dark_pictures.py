from xml.etree import ElementTree

import pytest
from scripts import load_script

dark_pictures = load_script("tools/dark_pictures.py")
FIGURES = sorted(path for path in dark_pictures.PICTURES.glob("*.svg") if not path.stem.endswith("_dark"))


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_figures_have_their_dark_form_beside_them(path):
    ElementTree.parse(path)
    dark = path.with_stem(f"{path.stem}_dark").read_text()
    assert dark == dark_pictures.darkened(path.read_text()), "run python tools/dark_pictures.py"
    assert dark != path.read_text()


def test_a_colour_without_a_dark_form_is_named():
    assert dark_pictures.darkened("fill: #1f2933; marker-end: url(#tip)") == "fill: #e6edf3; marker-end: url(#tip)"
    with pytest.raises(ValueError, match="#123456, #fff: no dark form"):
        dark_pictures.darkened("#fff #123456 #1f2933")
