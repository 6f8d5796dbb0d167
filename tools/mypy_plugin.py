"""Tells mypy what torch cannot: an attribute that a module only has at run time, such as a registered part, may be any.

torch declares `Module.__getattr__` as `Tensor | Module`, so that mypy would refuse `self.tower.transformer.resblocks`.
Attributes that a class declares keep their types. `[tool.mypy]` in pyproject.toml names this file.
"""

from collections.abc import Callable

from mypy.plugin import AttributeContext, Plugin
from mypy.types import AnyType, Type, TypeOfAny, UnionType, get_proper_type

PREFIX = "torch.nn.modules.module.Module."


class TorchPlugin(Plugin):
    """Attributes found by `Module.__getattr__` are Any."""

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        return _dynamic if fullname.startswith(PREFIX) else None


def _dynamic(context: AttributeContext) -> Type:
    declared = get_proper_type(context.default_attr_type)
    return AnyType(TypeOfAny.special_form) if isinstance(declared, UnionType) else declared


def plugin(version: str) -> type[Plugin]:
    """What mypy calls."""
    return TorchPlugin
