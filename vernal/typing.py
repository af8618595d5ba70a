"""Names for the kinds of values that appear in vernal's signatures."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

from jaxtyping import (
    Array as Array,
    ArrayLike as ArrayLike,
    DTypeLike as DTypeLike,
    PRNGKeyArray as Key,
    PyTree as PyTree,
)

__all__ = [
    "Array",
    "ArrayLike",
    "AxisName",
    "AxisSpec",
    "DTypeLike",
    "FilterSpec",
    "IsLeaf",
    "Key",
    "PyTree",
]

AxisName: TypeAlias = Hashable | Sequence[Hashable]
"""The name of a mapped axis, or several of them."""

AxisSpec: TypeAlias = int | Callable[[Any], int | None] | None
"""Which axis of a leaf to map: an index, None for none, or a function of the leaf."""

FilterSpec: TypeAlias = PyTree[bool | Callable[[Any], bool]]
"""Which leaves to keep: a prefix tree of booleans and functions of the leaf."""

IsLeaf: TypeAlias = Callable[[Any], bool] | None
"""As the argument ``is_leaf`` of ``jax.tree_util`` functions."""
