"""Handles: distinct stand-ins for the leaves and hidden fields of a tree.

A node class may keep values that are no pytree children, as a Module does with its
static fields. It lists their names in ``__static_fields__``, the names of fields that
are either in ``__function_fields__``, keeps all its fields in ``__dict__``, and what
flattening gave in ``__flat__``. That is all that these functions know of Modules.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from ..typing import IsLeaf, PyTree


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


def wrap_leaves(tree: PyTree, is_leaf: IsLeaf) -> PyTree:
    """A copy of the tree, all of whose nodes are new, with a handle for each leaf."""
    return jax.tree.map(Handle, tree, is_leaf=is_leaf)


def wrap_everything(tree: PyTree, is_leaf: IsLeaf) -> PyTree:
    """As :func:`wrap_leaves`; also for each None, empty tuple, and hidden field."""

    def stop(node: Any) -> bool:
        return is_shared(node) or (is_leaf is not None and is_leaf(node))

    copy = wrap_leaves(tree, stop)
    visit(copy, _wrap_hidden)
    return copy


def is_shared(node: Any) -> bool:
    """Whether Python has only one object of this value: no identity tells places."""
    return node is None or (type(node) is tuple and not node)


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


def _wrap_hidden(node: Any) -> None:
    kind = type(node)
    hidden = {}
    for name, value in _fields(node):
        is_hidden = name in kind.__static_fields__
        if name in kind.__function_fields__:
            is_hidden = type(value) is not Handle and jax.tree_util.all_leaves([value])
        if is_hidden:
            hidden[name] = Handle(value)
    if hidden:
        rewrite(node, hidden)


def restore_hidden(tree: PyTree, swap: Callable[[Handle], Any]) -> None:
    """Puts ``swap(handle)`` in the place of each handle in a static field."""

    def restore(node: Any) -> None:
        handles = {name: x for name, x in _fields(node) if type(x) is Handle}
        if handles:
            rewrite(node, {name: swap(handle) for name, handle in handles.items()})

    visit(tree, restore)


def rewrite(node: Any, values: dict[str, Any]) -> None:
    """Changes fields in place: of a copy, say, that nobody else has seen yet."""
    node.__dict__.update(values)
    if hasattr(node, "__flat__"):
        object.__delattr__(node, "__flat__")


def _fields(node: Any) -> Iterable[tuple[str, Any]]:
    return node.__dict__.items() if hasattr(type(node), "__static_fields__") else ()
