"""Sizes, data and initial values, the same in every library."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from program import fill

LEARNING_RATE = 3e-4
MOMENTUM = 0.99
WIDTH = 16  # of `normed` and `deep`


def pairs(width: int = 3, batch: int = 10) -> tuple[jax.Array, jax.Array]:
    """A batch: inputs, and what the network is to learn."""
    xs = jr.normal(jr.key(0), (batch, width))
    return xs, jnp.sin(xs) + 1


def kernel(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """An initializer for libraries that store a matrix as (in, out)."""
    return jnp.asarray(fill(shape[::-1]).T, dtype)


def initial(model: Any, stacked: bool = False) -> Any:
    """A Module with the weights of all libraries, and zeros as biases."""

    def value(path: Any, leaf: Any) -> Any:
        shape = leaf.shape[int(stacked) :]
        if len(shape) >= 2:
            return jnp.array(np.broadcast_to(fill(shape), leaf.shape))
        is_bias = getattr(path[-1], "name", None) == "bias"
        return jnp.zeros_like(leaf) if is_bias else leaf

    is_array = lambda x: hasattr(x, "shape")  # noqa: E731
    return jax.tree_util.tree_map_with_path(
        lambda path, x: value(path, x) if is_array(x) else x, model
    )


def singular(rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
    """The first singular vectors of the weight (rows, columns).

    Libraries begin the power iteration at its other end, which makes no difference
    where it has converged.
    """
    u, _, v = np.linalg.svd(fill((rows, columns)))
    return jnp.array(u[:, 0]), jnp.array(v[0])
