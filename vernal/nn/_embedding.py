"""A learned vector for each member of a vocabulary."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from .._module.fields import field
from .._module.module import Module
from .._state.index import strong
from .._tree.filters import is_array
from ..typing import DTypeLike, Key
from ._checks import (
    fail,
    is_size,
    require,
    require_key,
)
from ._init import default_dtype


class Embedding(Module):
    r"""Looks up a row of a table: ``y = weight[x]``.

    Takes one integer to ``(embedding_size,)``; use ``jax.vmap`` for a sequence. As for
    a Python list, −1 is the last row.

    An index outside of the table raises an error if its value is known. Under ``jit``
    and ``vmap`` it is not, and the result is NaN, with gradient 0 (for a table of
    integers, the least or, if unsigned, the greatest of the dtype).

    The table is drawn from the standard normal distribution, as in PyTorch (Flax scales
    by 1/√embedding_size). PyTorch takes any number of indices, and no negative ones.

    Arguments:
        num_embeddings: rows of the table, at least 0.
        embedding_size: columns of the table, at least 0.
        weight: the table itself, an array ``(num_embeddings, embedding_size)``. Both
            sizes follow from it, and must agree with it if given.
        dtype: of the table; by default that of ``weight`` if given, else float32
            (float64 in 64-bit mode).
        key: a PRNG key for the initial table; needed unless ``weight`` is given.

    Attributes:
        weight: the table, ``(num_embeddings, embedding_size)``.

    Raises:
        HyperparameterError: neither ``weight`` nor both sizes and ``key`` are given,
            or they do not agree.
        InputError: the input is not an integer, or is outside of the table.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> embedding = vn.nn.Embedding(100, 8, key=jax.random.key(0))
    >>> embedding(3).shape
    (8,)
    >>> jax.vmap(embedding)(jnp.array([3, 1, 4, 1])).shape
    (4, 8)
    """

    num_embeddings: int = field(static=True)
    embedding_size: int = field(static=True)
    weight: Float[Array, "num_embeddings embedding_size"]

    def __init__(
        self,
        num_embeddings: int | None = None,
        embedding_size: int | None = None,
        weight: Float[Array, "num_embeddings embedding_size"] | None = None,
        dtype: DTypeLike | None = None,
        *,
        key: Key | None = None,
    ) -> None:
        sizes = {"num_embeddings": num_embeddings, "embedding_size": embedding_size}
        if weight is None:
            self.weight = _draw(sizes, dtype, key)
        else:
            self.weight = _read_weight(weight, sizes, dtype)
        self.num_embeddings, self.embedding_size = self.weight.shape

    def __call__(
        self, x: int | Int[Array, ""], *, key: Key | None = None
    ) -> Float[Array, " embedding_size"]:
        """Looks up one integer: Python's, NumPy's, or an array of the shape ``()``.

        Arguments:
            x: the index of the row, from ``-num_embeddings`` to
                ``num_embeddings - 1``.
            key: not used.

        Returns:
            An array ``(embedding_size,)`` of the dtype of the table.
        """
        _check_index(self, x)
        index = _to_int32(jnp.asarray(x))
        return jnp.asarray(self.weight).at[index].get(mode="fill")


def _to_int32(x: Array) -> Array:
    """Converts an index so that one outside of the table stays outside.

    JAX would let wide ones wrap, and refuses narrow ones for tables beyond their range.
    """
    if x.dtype != jnp.int32 and x.dtype.itemsize >= 4:
        low = max(np.iinfo(x.dtype).min, np.iinfo(np.int32).min)
        x = jnp.clip(x, low, np.iinfo(np.int32).max)
    return x.astype(jnp.int32)


def _draw(sizes: dict[str, Any], dtype: Any, key: Any) -> Array:
    for name, size in sizes.items():
        ok = is_size(size, minimum=0)
        require(ok, "Embedding", name, "an int ≥ 0, as no `weight` is given", size)
    dtype = default_dtype(dtype)
    ok = jnp.issubdtype(dtype, jnp.inexact)
    require(ok, "Embedding", "dtype", "a floating-point or complex dtype", dtype)
    require_key("Embedding", key)
    return jr.normal(key, tuple(sizes.values()), dtype)


def _read_weight(weight: Any, sizes: dict[str, Any], dtype: Any) -> Array:
    ok = is_array(weight) and weight.ndim == 2
    expected = "an array (num_embeddings, embedding_size)"
    require(ok, "Embedding", "weight", expected, getattr(weight, "shape", weight))
    for (name, size), actual in zip(sizes.items(), weight.shape, strict=True):
        ok = size is None or (is_size(size, minimum=0) and size == actual)
        expected = f"{actual} or None, as `weight` is {weight.shape}"
        require(ok, "Embedding", name, expected, size)
    return strong(jnp.asarray(weight, None if dtype is None else default_dtype(dtype)))


def _check_index(layer: Embedding, x: Any) -> None:
    is_int = isinstance(x, int) and not isinstance(x, bool)
    if is_array(x):
        is_int = x.shape == () and jnp.issubdtype(x.dtype, jnp.integer)
    if not is_int:
        shape = getattr(x, "shape", ())
        fail(
            layer,
            "the input is not an integer",
            expected="one integer: an int, or an integer array of the shape ()",
            got=f"{tuple(shape)}, {x.dtype}" if is_array(x) else type(x).__name__,
            fix="jax.vmap(layer)" if shape else "",
        )
    n, is_known = layer.num_embeddings, not isinstance(x, jax.core.Tracer)
    if not (-n <= int(x) < n if is_known else n):
        fail(
            layer,
            "the index is outside of the table",
            expected=f"from {-n} to {n - 1}" if n else "none, as the table is empty",
            got=f"{int(x)}" if is_known else "a traced index",
        )
