"""Initial values of parameters."""

import math

import jax.numpy as jnp
import jax.random as jr

from ..typing import Array, DTypeLike, Key


def default_dtype(dtype: DTypeLike | None) -> jnp.dtype:
    """``dtype``, or JAX's default: float32, or float64 in 64-bit mode."""
    return jnp.zeros((), dtype or float).dtype


def uniform_fan_in(
    key: Key, shape: tuple[int, ...], dtype: jnp.dtype, fan_in: int
) -> Array:
    """Draws from the uniform distribution on ±1/√fan_in."""
    limit = 1 / math.sqrt(fan_in)
    return jr.uniform(key, shape, dtype, minval=-limit, maxval=limit)
