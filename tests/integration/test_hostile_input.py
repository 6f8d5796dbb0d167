"""Hostile and broken inputs: a right result or one clear message. tools/reliability/fuzz.py tries thousands of them."""

import json

import pytest
from scripts import ROOT, load_script

FOLDER = ROOT / "tools" / "reliability"
COUNTS = {
    "image": 70,
    "label map": 60,
    "folder": 30,
    "config": 20,
    "class names": 60,
    "checkpoint": 40,
    "command line": 20,
}
FOUND = [json.loads(line) for line in (FOLDER / "findings.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def fuzz():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield load_script(FOLDER / "fuzz.py")


@pytest.fixture
def trial(fuzz, tmp_path):
    """Tries a recipe in a folder of its own."""
    from fuzz_trials import TRIALS

    def run(kind, recipe, name="input"):
        folder = tmp_path / str(name)
        folder.mkdir()
        return TRIALS[kind](recipe, folder)

    return run


def is_cheap(recipe):
    return not recipe.get("filled") and not recipe.get("many") and "values" not in recipe


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", COUNTS)
def test_new_inputs(fuzz, trial, kind):
    recipes = [recipe for recipe in fuzz.draw(kind, 5 * COUNTS[kind], seed=1) if is_cheap(recipe)][: COUNTS[kind]]
    verdicts = [trial(kind, recipe, number) for number, recipe in enumerate(recipes)]
    assert len(verdicts) == COUNTS[kind] and verdicts.count("refused") > len(verdicts) / 10


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("found", FOUND, ids=lambda found: found["was"].replace(" ", "-"))
def test_what_was_found_once(trial, found):
    trial(found["kind"], found["recipe"])
