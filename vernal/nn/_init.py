"""Initial values of parameters."""

import math

import jax.numpy as jnp
import jax.random as jr
from jax import lax

from ..typing import Array, DTypeLike, Key


def default_dtype(dtype: DTypeLike | None) -> jnp.dtype:
    """``dtype``, or JAX's default: float32, or float64 in 64-bit mode."""
    return jnp.zeros((), dtype or float).dtype


def uniform_fan_in(
    key: Key, shape: tuple[int, ...], dtype: jnp.dtype, fan_in: int
) -> Array:
    """Draws from the uniform distribution on ±1/√fan_in; on ±1 for ``fan_in = 0``.

    Of a complex dtype, both parts are drawn so.
    """
    limit = 1 / math.sqrt(max(fan_in, 1))
    if jnp.issubdtype(dtype, jnp.complexfloating):
        part = jnp.zeros((), dtype).real.dtype
        real, imag = (
            jr.uniform(k, shape, part, minval=-limit, maxval=limit)
            for k in jr.split(key)
        )
        return lax.complex(real, imag)
    return jr.uniform(key, shape, dtype, minval=-limit, maxval=limit)
