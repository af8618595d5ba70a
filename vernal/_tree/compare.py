"""Whether trees are equal."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    Array(True, dtype=bool)
    >>> tree_equal([1, jnp.ones(2)], [1, jnp.ones(3)])
    False
    """
    first = jax.tree.leaves(pytrees[0])
    treedef: Any = jax.tree.structure(pytrees[0])
    equal: bool | Array = True
    for pytree in pytrees[1:]:
        if jax.tree.structure(pytree) != treedef:
            return False
        others = jax.tree.leaves(pytree)
        for x, y in zip(first, others, strict=True):
            same = _leaf_equal(x, y, typematch, rtol, atol)
            if same is False:
                return False
            equal = equal & same
    return equal


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
    both_numpy = not isinstance(x, jax.Array) and not isinstance(y, jax.Array)
    tolerances = (rtol, atol)
    exact = all(isinstance(t, int | float) and t == 0 for t in tolerances)
    if exact or not jnp.issubdtype(x.dtype, jnp.inexact):
        return bool(np.all(x == y)) if both_numpy else jnp.all(x == y)
    if both_numpy:
        return bool(np.allclose(x, y, rtol=rtol, atol=atol))
    return jnp.allclose(x, y, rtol=rtol, atol=atol)
