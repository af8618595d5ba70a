"""Splitting a call into arrays, which are traced, and the rest, which is hashed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.tree_util import tree_flatten

from .._tree.filters import combine, is_array, partition
from .._tree.paths import path_text
from ..errors import TransformError, report
from ..typing import PyTree


class _Array:
    """Stands in the list of leaves where an array was taken out."""

    def __repr__(self) -> str:
        return "<array>"


ARRAY = _Array()

# Looking a type up in a set is much cheaper than isinstance with jax.Array, and the
# leaves of a model are nearly always of two or three types, which are learned here.
_array_types: set[type] = set()


class Layout(NamedTuple):
    """All of a pytree that is not an array: the structure, and the other leaves."""

    treedef: Any

    static: tuple[Any, ...] | None
    """One entry per leaf; None where all leaves are arrays."""

    kinds: tuple[type, ...] | None
    """The types of the entries: 1 and True are equal, but differ."""


def layout_of(treedef: Any, static: tuple[Any, ...] | None) -> Layout:
    """The layout of what :func:`split` returned.

    Raises:
        TypeError: it cannot be hashed.
    """
    layout = Layout(treedef, static, static and tuple(map(type, static)))
    hash(layout)
    return layout


def merge(arrays: Any, treedef: Any, static: tuple[Any, ...] | None) -> PyTree:
    """Rebuilds the tree from what :func:`split` returned."""
    if static is None:
        return treedef.unflatten(arrays)
    rest = iter(arrays)
    return treedef.unflatten([next(rest) if x is ARRAY else x for x in static])


def is_abstract(x: Any) -> bool:
    """Whether ``x`` is an array, or has the shape and dtype of one."""
    return is_array(x) or isinstance(x, jax.ShapeDtypeStruct)


def split(
    tree: PyTree, is_traced: Callable[[Any], bool] = is_array
) -> tuple[list[Any], Any, tuple[Any, ...] | None]:
    """Flattens a tree; returns its arrays, treedef, and other leaves (see Layout)."""
    leaves, treedef = tree_flatten(tree)
    if _array_types.issuperset(map(type, leaves)):
        return leaves, treedef, None
    arrays, static = [], []
    for leaf in leaves:
        if is_traced(leaf):
            is_stand_in = leaf.__class__ is not type(leaf)
            if is_array(leaf) and not is_stand_in:
                _array_types.add(type(leaf))
            arrays.append(leaf)
            static.append(ARRAY)
        else:
            static.append(leaf)
    return arrays, treedef, None if len(arrays) == len(leaves) else tuple(static)


class Hidden:
    """Carries values that are no arrays out of a transformation, as metadata."""

    def __init__(self, values: PyTree) -> None:
        self.values = values


jax.tree_util.register_pytree_node(
    Hidden, lambda hidden: ((), hidden.values), lambda values, _: Hidden(values)
)


def hide(tree: PyTree) -> tuple[PyTree, Hidden]:
    """Makes a result that JAX accepts: its arrays, and the rest as metadata."""
    arrays, rest = partition(tree, is_array)
    return arrays, Hidden(rest)


def reveal(arrays: PyTree, hidden: Hidden) -> PyTree:
    """The inverse of :func:`hide`."""
    return combine(arrays, hidden.values)


def unhashable(tree: PyTree, name: str = "filter_jit") -> TransformError:
    """Explains which leaf keeps a tree from being used as a cache key."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        try:
            hash(leaf) if not is_array(leaf) else None
        except TypeError:
            return TransformError(
                report(
                    f"{name}: a leaf is neither an array nor hashable.",
                    expected="arrays, which are traced, or hashable values",
                    got=f"{type(leaf).__name__} at {path_text(path)}",
                    fix="make it an array, or close over it",
                )
            )
    return TransformError(
        report(
            f"{name}: a static field of a Module is not hashable.",
            expected="static fields that can be hashed and compared",
            fix="store a tuple in place of a list, or drop `static=True`",
        )
    )
