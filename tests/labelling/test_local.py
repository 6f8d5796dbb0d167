import functools

import pytest
from toy_labelling import Doubler, Number, die

from mta_clip.labelling.local import run_local


def numbers(*names):
    return [Number(name=name, value=value) for value, name in enumerate(names)]


def test_another_process_does_what_a_dead_one_did(tmp_path):
    items = numbers("a", "deadly", "c", "d", "e")
    assert sorted(run_local(functools.partial(Doubler, str(tmp_path)), items, workers=2)) == [0, 2, 4, 6, 8]
    by_name = {}
    for path in tmp_path.iterdir():
        by_name.setdefault(path.stem, []).append(path.suffix)
    assert {name: len(found) for name, found in by_name.items()} == {"a": 1, "deadly": 2, "c": 1, "d": 1, "e": 1}
    assert len({suffix for found in by_name.values() for suffix in found}) <= 3  # no process per item


def test_items_are_taken_when_a_process_is_free(tmp_path):
    taken = []

    def items():
        for item in numbers(*"abcdef"):
            taken.append(item)
            yield item

    results = run_local(functools.partial(Doubler, str(tmp_path)), items(), workers=1)
    assert taken == []
    assert next(results) == 0 and len(taken) <= 2
    assert list(results) == [2, 4, 6, 8, 10]


def test_errors_stop_the_job(tmp_path):
    with pytest.raises(ValueError, match="wrong item") as caught:
        list(run_local(functools.partial(Doubler, str(tmp_path)), numbers("a", "wrong"), workers=1))
    assert "Doubler" in str(caught.value.__cause__) or "__call__" in str(caught.value.__cause__)


def test_death_while_the_model_is_loaded(tmp_path):
    with pytest.raises(RuntimeError, match=r"exit code -9.*--workers"):
        list(run_local(die, numbers("a"), workers=1))
