"""tools/reliability/: mutants are found, and a process gets exactly the change that was meant."""

import sys
import types

import pytest
from scripts import load_script

SOURCE = '''"""Docstring 1."""
import dataclasses
import functools

LIMIT = 3


def decorated(function):
    @functools.wraps(function)
    def wrapped(*args):
        return function(*args)

    return wrapped


@decorated
def add(a: int = 1, b: int = 2) -> int:
    if a > LIMIT and not b:
        raise ValueError(f"{a + 1} is too large")
    return a + b


class Parent:
    def __init__(self):
        self.ready = True


@dataclasses.dataclass
class Box(Parent):
    size: float = 0.5

    def __post_init__(self):
        super().__init__()
        self.kept = [x for x in range(4) if x % 2]

    @property
    def double(self):
        return 2 * self.size


TABLE = {"box": Box, "four": 4}
TABLE["add"] = add
'''


def refuses(module, a, b):
    with pytest.raises(ValueError, match="is too large"):
        module.add(a, b)
    return True


CHANGES = {
    ": 3 -> 4": lambda m: m.LIMIT == 4,
    ": add: 2 -> 3": lambda m: m.add() == 4,
    ": add: a + b -> a - b": lambda m: m.add(5, 2) == 3,
    ": add: a > LIMIT -> a >= LIMIT": lambda m: refuses(m, 3, 0),
    ": add: a > LIMIT and (not b) -> a > LIMIT or not b": lambda m: refuses(m, 9, 1),
    ": add: raise ValueError(f'{a + 1} is too large') -> pass": lambda m: m.add(9, 0) == 9,
    ": add: not b -> b": lambda m: m.add(9, 0) == 9,
    ": Parent.__init__: True -> False": lambda m: m.Box().ready is False,
    ": Box: 0.5 -> 1.0": lambda m: m.Box().size == 1,
    ": Box.__post_init__: super().__init__() -> __class__": lambda m: not hasattr(m.Box(), "ready"),
    ": Box.__post_init__: if x % 2 -> if not x % 2": lambda m: m.Box().kept == [0, 2],
    ": Box.__post_init__: x % 2 -> x * 2": lambda m: m.Box().kept == [1, 2, 3],
    ": 4 -> 5": lambda m: {"box": m.Box, "four": 5, "add": m.add} == m.TABLE,
    ": TABLE['add'] = add -> pass": lambda m: "add" not in m.TABLE,
    ": Box.double: 2 * self.size -> 2 / self.size": lambda m: m.Box().double == 4,
}


@pytest.fixture
def tool(tmp_path):
    (tmp_path / "toy_mutated.py").write_text(SOURCE)
    tool = load_script("tools/reliability/mutants.py")
    return {
        mutant.name.removeprefix("toy_mutated.py"): mutant for mutant in tool.mutants(tmp_path, "toy_mutated.py")
    }, tool


def test_what_is_changed_and_what_is_not(tool):
    names = set(tool[0])
    assert set(CHANGES) <= names
    assert not any("1 ->" in name and "add" in name and "1 -> 2" not in name for name in names)  # no f-string
    assert len(names) == len(tool[0]) and not any("Docstring" in name for name in names)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_reaches_what_was_imported_before(name, tool, monkeypatch):
    found, mutants = tool
    module = types.ModuleType("toy_mutated")
    monkeypatch.setitem(sys.modules, "toy_mutated", module)
    module.__file__, module.__package__ = "toy_mutated.py", ""
    exec(SOURCE, module.__dict__)
    # As another module has them; numbers are replaced in modules of the package alone.
    before = types.SimpleNamespace(add=module.add, Box=module.Box, TABLE=module.TABLE, LIMIT=4)
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        assert CHANGES[name](module)
    mutants.apply(found[name])
    assert CHANGES[name](module)
    assert CHANGES[name](before)
