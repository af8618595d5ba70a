"""Tangents and cotangents: trees like another tree, with None for zero."""

from typing import Any

import jax
import jax.numpy as jnp

from .._tree.filters import is_array, is_inexact_array_like
from .._tree.paths import path_text
from ..errors import TransformError, report, short
from ..typing import PyTree


def is_none(x: Any) -> bool:
    """Whether ``x`` is None, which stands in trees for what is left out."""
    return x is None


def zero_to_none(tangent: Any) -> Any:
    """Turns JAX's two ways of writing a zero that is known as such into None."""
    if isinstance(tangent, jax.custom_derivatives.SymbolicZero):
        return None
    # A tangent of a Python float may be one, too.
    is_zero = getattr(tangent, "dtype", None) == jax.dtypes.float0
    return None if is_zero else tangent


def none_to_zero(tangent: Any, point: Any) -> Any:
    """The inverse of :func:`zero_to_none`; only arrays have tangents."""
    if tangent is not None or not is_array(point):
        return tangent
    space = jax.typeof(point).to_tangent_aval()
    return jax.custom_derivatives.SymbolicZero(space)


def check_vectors(name: str, vectors: PyTree, points: PyTree) -> None:
    """Refuses a tree of tangents that does not fit the tree it belongs to.

    It must have the same structure, and at each leaf None, or what has the shape and
    dtype of a leaf that can be differentiated. ``name`` begins the error text.
    """
    want: Any = jax.tree.structure(points, is_leaf=is_none)
    got = jax.tree.structure(vectors, is_leaf=is_none)
    if want != got:
        raise TransformError(
            report(
                f"{name}: the structure does not fit.",
                expected=short(str(want), 200),
                got=short(str(got), 200),
                fix="give it the same structure, with None for zero",
            )
        )
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(vectors, is_leaf=is_none),
        jax.tree.leaves(points, is_leaf=is_none),
        strict=True,
    )
    for (path, vector), point in pairs:
        kind = _kind(point)
        if vector is not None and (not kind or _kind(vector) != kind):
            raise TransformError(
                report(
                    f"{name}: a leaf does not fit.",
                    expected=f"{kind or 'None'} at {path_text(path) or 'the root'}",
                    got=_kind(vector)
                    or f"{short(repr(vector))} of type {type(vector).__name__}",
                    fix="only floating numbers have tangents; None stands for zero",
                )
            )


def _kind(x: Any) -> str:
    """Shape and dtype of what can be differentiated; empty for anything else."""
    is_struct = isinstance(x, jax.ShapeDtypeStruct)
    if not is_struct and not is_inexact_array_like(x):
        return ""
    return f"{jnp.result_type(x).name}{list(jnp.shape(x))}"
