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
    unknown = [x for x in answers if x is not True]
    return jnp.all(jnp.stack(unknown)) if unknown else True


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
    exact = all(isinstance(t, int | float) and t == 0 for t in (rtol, atol))
    exact = exact or not jnp.issubdtype(x.dtype, jnp.inexact)
    if not all(map(_is_here, (x, y, rtol, atol))):
        return jnp.all(x == y) if exact else jnp.allclose(x, y, rtol=rtol, atol=atol)
    # On the host: an answer that is known also while something else is being traced.
    x, y = _to_numpy(x), _to_numpy(y)
    same = np.all(x == y) if exact else np.allclose(x, y, rtol=rtol, atol=atol)
    return bool(same)


def _is_here(x: Any) -> bool:
    """Whether the values are known, and in the memory of this process."""
    traced = isinstance(x, jax.core.Tracer)
    return not traced and bool(getattr(x, "is_fully_addressable", True))


def _to_numpy(x: Any) -> np.ndarray:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        with jax.ensure_compile_time_eval():
            x = jax.random.key_data(x)
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype.kind == "V" else x  # bfloat16 and its like
