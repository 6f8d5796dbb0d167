"""Hostile and broken inputs: a right result or one clear message. tools/reliability/fuzz.py tries thousands of them."""

import json
import os
import time

import numpy as np
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
    """Neither gigabytes of pixels, nor 10,000 names, nor a training."""
    return not (recipe.get("filled") or recipe.get("many") or isinstance(recipe.get("values"), dict))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", COUNTS)
def test_new_inputs(fuzz, trial, kind):
    recipes = [
        recipe for recipe in fuzz.draw(kind, (7 if kind == "config" else 2) * COUNTS[kind], seed=1) if is_cheap(recipe)
    ][: COUNTS[kind]]
    verdicts = [trial(kind, recipe, number) for number, recipe in enumerate(recipes)]
    assert len(verdicts) == COUNTS[kind] and verdicts.count("refused") > len(verdicts) / 10


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("found", FOUND, ids=lambda found: found["was"].replace(" ", "-"))
def test_what_was_found_once(trial, found):
    trial(found["kind"], found["recipe"])


def what_happens(recipe, folder):
    """A trial that does what the recipe says."""
    from fuzz_trials import Wrong

    if recipe["do"] == "wrong":
        raise Wrong("other pixels")
    if recipe["do"] == "crash":
        os._exit(3)
    if recipe["do"] == "hang":
        time.sleep(600)
    if recipe["do"] == "grow":
        np.ones(240 << 20, np.uint8)  # far more than 40 MiB: the system may take back other pages meanwhile
    return recipe["do"]


def test_a_campaign_survives_its_inputs(fuzz, tmp_path, monkeypatch):
    import fuzz_trials

    monkeypatch.setitem(fuzz_trials.TRIALS, "image", what_happens)
    recipes = [{"do": what} for what in ("right", "crash", "wrong", "hang", "grow", "refused")]
    record = tmp_path / "image-0.rows"
    job = {"kind": "image", "recipes": recipes, "record": str(record), "memory": 40, "skip": 0}
    fuzz.run_batch(job, limit=6)
    found = {row["recipe"]["do"]: row["found"] for row in fuzz.rows_of(record) if row["verdict"] == "wrong"}
    assert found["crash"] == "the process ended with 3" and found["hang"] == "no end within 6 s"
    assert found["wrong"] == "other pixels" and " MiB, more than 40" in found["grow"]
    assert "| image | 6 | 1 | 1 | 4 | 2" in fuzz.report(tmp_path)  # some 240 MiB
    findings = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert [finding["recipe"]["do"] for finding in findings] == ["crash", "wrong", "hang", "grow"]


def test_batches_have_seeds_of_their_own(fuzz):
    drawn = list(fuzz.batches(1000, seed=5))
    assert sum(count for _, count, _ in drawn) == 1000 and {kind for kind, _, _ in drawn} == set(COUNTS)
    assert [seed for _, _, seed in drawn] == list(range(5, 5 + len(drawn)))
    assert fuzz.draw("label map", 3, 1) == fuzz.draw("label map", 3, 1) != fuzz.draw("label map", 3, 2)
