"""Handles: distinct stand-ins for the leaves and hidden fields of a tree.

A node class may keep values that are no pytree children, such as the static fields of
a Module. It lists their attribute names in ``__static_fields__``, and all its fields
in ``__dict__``; that is all that these functions know of Modules.
"""

from collections.abc import Callable
from typing import Any

import jax

from ..typing import PyTree


class Handle:
    """Stands for one value at one place, and answers questions as the value would."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # isinstance(handle, jax.Array) looks here
        return type(self.value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.value, name)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __eq__(self, other: object) -> Any:
        return self.value == unwrap(other)

    def __hash__(self) -> int:
        return hash(self.value)

    def __index__(self) -> Any:
        return self.value.__index__()

    def __len__(self) -> int:
        return len(self.value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.value(*args, **kwargs)


def unwrap(x: PyTree) -> PyTree:
    """Takes all handles out of a tree."""
    out = jax.tree.map(lambda y: y.value if type(y) is Handle else y, x)
    restore_hidden(out, lambda y: y.value)
    return out


def visit(tree: PyTree, action: Callable[[Any], Any]) -> None:
    """Calls ``action`` on each node and leaf, parents first."""

    def stop(node: Any) -> bool:
        action(node)
        return False

    jax.tree.flatten(tree, is_leaf=stop)


def expose_hidden(tree: PyTree) -> None:
    """Wraps static fields, and fields that are None, in place.

    The nodes of ``tree`` must be the caller's own fresh copies.
    """

    def expose(node: Any) -> None:
        static = getattr(type(node), "__static_fields__", None)
        if static is not None and type(node) is not Handle:
            fields = node.__dict__
            for name, value in fields.items():
                is_node = hasattr(type(value), "__static_fields__")
                if value is None or (name in static and not is_node):
                    fields[name] = Handle(value)

    visit(tree, expose)


def restore_hidden(tree: PyTree, swap: Callable[[Handle], Any]) -> None:
    """Puts ``swap(handle)`` in the place of each handle in a static field."""

    def restore(node: Any) -> None:
        if hasattr(type(node), "__static_fields__"):
            fields = node.__dict__
            for name, value in fields.items():
                if type(value) is Handle:
                    fields[name] = swap(value)

    visit(tree, restore)
