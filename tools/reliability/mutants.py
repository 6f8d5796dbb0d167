"""Finds small changes ("mutants") of a Python file, and makes one in the modules that a process has imported.

Changes: an operator or a comparison becomes another one; a number grows (n to n + 1, x to 2 x); True and False swap; a
condition, a sign or a `not` turns around; `and` and `or` swap; a statement that is a call, an assignment to an
attribute or an element, a raise, a continue or a break goes. Annotations, f-strings (texts of messages), what a raise
says and what is logged stay.
"""

import ast
import copy
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.MatMult: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_REMOVED = (ast.Raise, ast.Continue, ast.Break, ast.AugAssign)
_PLAIN = (bool, int, float, str, bytes, tuple, frozenset, type(None))


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    source: str  # path from the root of the repository
    line: int
    where: str  # function and class, "" for the module
    change: str  # "before -> after"
    number: int  # among those of the same source, function and change, from 1
    tree: ast.Module = field(repr=False)  # of the source, unchanged
    path: tuple = field(repr=False)  # to the node that changes
    place: int  # of the change, among those of the node

    @property
    def name(self) -> str:
        """A name that does not change when lines move."""
        name = f"{self.source}: {self.where}: {self.change}" if self.where else f"{self.source}: {self.change}"
        return name if self.number == 1 else f"{name} (no. {self.number})"

    def mutated(self) -> ast.Module:
        """The tree of the source with the change."""
        tree = copy.deepcopy(self.tree)
        _replace(tree, self.path, _changes(_at(tree, self.path))[self.place])
        return ast.fix_missing_locations(tree)


def mutants(root: Path, source: str) -> list[Mutant]:
    """All mutants of a file, in the order of its lines."""
    tree = ast.parse((root / source).read_text(encoding="utf-8"))
    found: list[Mutant] = []
    counts: Counter[tuple[str, str]] = Counter()
    for path, where in _places(tree, (), ""):
        node = _at(tree, path)
        for place, after in enumerate(_changes(node)):
            change = f"{_shown(node)} -> {_shown(after)}"
            counts[where, change] += 1
            line = getattr(node, "lineno", None) or node.iter.lineno  # a comprehension has none
            found.append(Mutant(source, line, where, change, counts[where, change], tree, path, place))
    return found


def _places(node: ast.AST, path: tuple, where: str) -> Iterator[tuple[tuple, str]]:
    """Paths (field and index, one after the other) of all nodes that may change, with the name of their function."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr) or _is_talk(child):
                continue
            below = (*path, (name, index))
            named = isinstance(child, ast.FunctionDef | ast.ClassDef)
            yield below, where
            if not isinstance(child, ast.Raise):
                yield from _places(child, below, f"{where}.{child.name}".lstrip(".") if named else where)


def _is_talk(node: ast.AST) -> bool:
    """Whether a statement is a docstring, or logs."""
    if not isinstance(node, ast.Expr):
        return False
    return isinstance(node.value, ast.Constant) or "logger." in ast.unparse(node.value).partition("(")[0]


def _at(tree: ast.AST, path: tuple) -> Any:
    for name, index in path:
        tree = getattr(tree, name) if index is None else getattr(tree, name)[index]
    return tree


def _replace(tree: ast.AST, path: tuple, node: ast.AST) -> None:
    (name, index), parent = path[-1], _at(tree, path[:-1])
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


def _changes(node: ast.AST) -> list[ast.AST]:
    """What a node may become."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        changes = [_with(node, op=_OPERATORS[type(node.op)]())]
    elif isinstance(node, ast.Compare):
        swapped = [[*node.ops[:i], _OPERATORS[type(op)](), *node.ops[i + 1 :]] for i, op in enumerate(node.ops)]
        changes = [_with(node, ops=ops) for ops in swapped]
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        changes = [node.operand]
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        changes = [_with(node, value=not node.value)]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        changes = [_with(node, value=_larger(node.value))]
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        changes = [_with(node, test=_negated(node.test))]
    elif isinstance(node, ast.comprehension) and node.ifs:
        changes = [_with(node, ifs=[_negated(node.ifs[0]), *node.ifs[1:]])]
    else:
        changes = []
    stored = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.YieldFrom)
    if isinstance(node, _REMOVED) or stored or called:
        # Code without super() would lose the cell with its class, and could not take the place of code with it.
        gone = ast.Expr(ast.Name("__class__", ast.Load())) if "super()" in ast.unparse(node) else ast.Pass()
        changes.append(ast.copy_location(gone, node))
    return changes


def _with(node: ast.AST, **fields: Any) -> Any:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _negated(test: ast.expr) -> ast.expr:
    return ast.copy_location(ast.UnaryOp(ast.Not(), test), test)


def _larger(value: float) -> float:
    return value + 1 if isinstance(value, int) or value == 0 else 2 * value


def _shown(node: ast.AST) -> str:
    """The first line of a node's text; of a constant, with nothing around it."""
    return ast.unparse(node).partition("\n")[0].strip() if not isinstance(node, ast.comprehension) else _filter(node)


def _filter(node: ast.comprehension) -> str:
    return " ".join(f"if {ast.unparse(test)}" for test in node.ifs)


def apply(mutant: Mutant) -> None:
    """Makes a change in the module of this process: in the code, defaults and constants of what it defines.

    The module is executed once more, changed, in a place of its own; functions that exist already get the code of
    their namesakes there, so that whoever has imported them gets the change, too.

    Raises:
        NotImplementedError: the change cannot be made this way.
    """
    name = mutant.source.removesuffix(".py").replace("/", ".")
    module = sys.modules[name]
    changed = ModuleType(name)
    changed.__package__, changed.__file__ = module.__package__, module.__file__
    sys.modules[name] = changed  # dataclasses look their module up
    try:
        exec(compile(mutant.mutated(), mutant.source, "exec"), changed.__dict__)  # nosec B102: code of this repository
    finally:
        sys.modules[name] = module
    done: set[int] = set()
    for key, new in vars(changed).items():
        old = vars(module).get(key)
        if key.startswith("__") or _transplant(old, new, name, done):
            continue
        if isinstance(new, dict | list | set) and type(old) is type(new):
            _refill(old, new, module)
        elif isinstance(new, _PLAIN):
            ours = [other for loaded, other in sys.modules.items() if loaded.startswith("mta_clip")]
            for other in (module, *ours):
                if vars(other).get(key) is old:
                    setattr(other, key, new)


def _refill(old: Any, new: Any, module: ModuleType) -> None:
    """Gives a container of a module the content of a new one, with the functions and classes that exist already."""

    def ours(value: Any) -> Any:
        defined_here = getattr(value, "__module__", None) == module.__name__
        return vars(module).get(value.__name__, value) if defined_here and hasattr(value, "__name__") else value

    content = {key: ours(value) for key, value in new.items()} if isinstance(new, dict) else list(map(ours, new))
    old.clear()
    (old.extend if isinstance(old, list) else old.update)(content)


def _transplant(old: Any, new: Any, module: str, done: set[int]) -> bool:
    """Gives an old function, or those of an old class, the code of a new one; whether it is one of the module."""
    if isinstance(new, staticmethod | classmethod):
        old, new = old.__func__, new.__func__
    if isinstance(new, property):
        return all(_transplant(getattr(old, f), getattr(new, f), module, done) for f in ("fget",))
    if not isinstance(new, FunctionType | type) or type(old) is not type(new) or id(new) in done:
        return False
    done.add(id(new))
    if isinstance(new, type):
        if new.__module__ != module:
            return False
        for key, value in vars(new).items():
            if key in ("__dict__", "__weakref__", "__doc__", "__module__"):
                continue
            if not _transplant(vars(old).get(key), value, module, done) and isinstance(value, _PLAIN):
                setattr(old, key, value)
        return True
    if old.__code__.co_freevars != new.__code__.co_freevars:
        raise NotImplementedError(f"{old.__qualname__} would need other variables of the function around it")
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
    for cell, other in zip(old.__closure__ or (), new.__closure__ or (), strict=True):  # functions in decorators
        value = other.cell_contents
        if not _transplant(cell.cell_contents, value, module, done) and isinstance(value, _PLAIN):
            cell.cell_contents = value
    return True
