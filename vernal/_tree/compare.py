"""Whether trees are equal."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp

from ..typing import Array, ArrayLike, PyTree
from .filters import is_array


def tree_equal(
    *pytrees: PyTree,
    typematch: bool = False,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 0.0,
) -> bool | Array:
    """Whether all trees have the same structure and equal leaves.

    Arrays are equal if shape, dtype and all values are; other leaves by ``==``.

    Arguments:
        *pytrees: any number of trees.
        typematch: also ask that corresponding leaves have the same type, so that a
            NumPy array differs from a JAX array of the same values.
        rtol, atol: tolerances for inexact arrays, as in ``jnp.allclose``. By default
            values must be exactly equal.

    Returns:
        A bool; or, where traced arrays had to be compared, a traced boolean array.
        ``tree_equal(...) is True`` asks whether it is known while tracing.

    >>> import jax.numpy as jnp
    >>> tree_equal([1, jnp.ones(2)], [1, jnp.ones(2)])
    True
    >>> tree_equal([1, jnp.ones(2)], [1, jnp.ones(3)])
    False
    """
    first = jax.tree.leaves(pytrees[0])
    treedef: Any = jax.tree.structure(pytrees[0])
    answers: list[bool | Array] = []
    for pytree in pytrees[1:]:
        if jax.tree.structure(pytree) != treedef:
            return False
        for x, y in zip(first, jax.tree.leaves(pytree), strict=True):
            answers.append(_leaf_equal(x, y, typematch, rtol, atol))
            if answers[-1] is False:
                return False
    known = [x for x in answers if not isinstance(x, jax.core.Tracer)]
    if not all(map(bool, known)):  # waits for the device once all are under way
        return False
    traced = [x for x in answers if isinstance(x, jax.core.Tracer)]
    return jnp.all(jnp.stack(traced)) if traced else True


def _leaf_equal(
    x: Any, y: Any, typematch: bool, rtol: ArrayLike, atol: ArrayLike
) -> bool | Array:
    if typematch and type(x) is not type(y):
        return False
    if is_array(x) != is_array(y):
        return False
    if not is_array(x):
        return bool(x == y)
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    traced = any(isinstance(a, jax.core.Tracer) for a in (x, y, rtol, atol))
    # Known arrays give a known answer also while something else is being traced.
    now = contextlib.nullcontext() if traced else jax.ensure_compile_time_eval()
    with now:
        exact = all(isinstance(t, int | float) and t == 0 for t in (rtol, atol))
        if exact or not jnp.issubdtype(x.dtype, jnp.inexact):
            return jnp.all(x == y)
        return jnp.allclose(x, y, rtol=rtol, atol=atol)
