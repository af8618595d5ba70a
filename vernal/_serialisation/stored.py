"""Static fields that are stored in files, among the leaves.

A rate or a flag of a layer is metadata to JAX, and yet belongs to a trained model.
``field(static=True, stored=True)`` says so. For a file, a Module with such fields is
unfolded into a node that has all of its fields for children, in their order.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.tree_util as jtu

from .._module.instance import assemble
from .._module.register import is_function
from ..typing import IsLeaf, PyTree

_T = TypeVar("_T")


class _Unfolded:
    """A Module, and the values of those of its fields that are stored."""

    def __init__(self, module: Any, values: dict[str, Any]) -> None:
        self.module = module
        self.values = values


class _Origin:
    """The Module an unfolded node came from; a mask of the same Module is alike."""

    def __init__(self, module: Any, names: tuple[str, ...]) -> None:
        self.module = module
        self.key = (type(module), names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Origin) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _flatten(node: _Unfolded) -> tuple[list[Any], _Origin]:
    children = [(jtu.GetAttrKey(name), value) for name, value in node.values.items()]
    return children, _Origin(node.module, tuple(node.values))


def _unflatten(origin: _Origin, children: Any) -> _Unfolded:
    return _Unfolded(origin.module, dict(zip(origin.key[1], children, strict=True)))


jtu.register_pytree_with_keys(_Unfolded, _flatten, _unflatten)


def _has_stored(x: Any) -> bool:
    return bool(getattr(type(x), "__stored_fields__", ()))


def unfold(
    tree: PyTree, stored: Callable[..., Any] | None = None, is_leaf: IsLeaf = None
) -> PyTree:
    """Makes children of the static fields that are stored.

    Arguments:
        tree: any pytree; Modules without such fields stay as they are.
        stored: what to put in the place of their values, if not None.
        is_leaf: what to leave alone.
    """

    def stop(x: Any) -> bool:
        return _has_stored(x) or (is_leaf is not None and is_leaf(x))

    def open_up(x: Any) -> Any:
        if not _has_stored(x) or (is_leaf is not None and is_leaf(x)):
            return x
        kind, values = type(x), {}
        for name in kind.__fields__:
            value = x.__dict__[name]
            if name in kind.__stored_fields__:
                values[name] = value if stored is None else stored
            elif name in kind.__function_fields__ and is_function(value):
                continue
            elif name not in kind.__static_fields__:
                values[name] = unfold(value, stored, is_leaf)
        return _Unfolded(x, values)

    return jax.tree.map(open_up, tree, is_leaf=stop)


def fold(tree: _T) -> _T:
    """The inverse of :func:`unfold`."""

    def close(x: Any) -> Any:
        if not isinstance(x, _Unfolded):
            return x
        values = {name: fold(y) for name, y in x.values.items()}
        return assemble(type(x.module), x.module.__dict__ | values)

    return jax.tree.map(close, tree, is_leaf=lambda x: isinstance(x, _Unfolded))
