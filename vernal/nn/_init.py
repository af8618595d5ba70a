"""Initial values of parameters."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from ..typing import Array, DTypeLike, Key


def default_dtype(dtype: DTypeLike | None) -> jnp.dtype:
    """``dtype``, or JAX's default: float32, or float64 in 64-bit mode."""
    if dtype is None:
        return jax.dtypes.canonicalize_dtype(float)
    return jnp.zeros((), dtype).dtype  # JAX warns of a dtype that it cannot have


def uniform_fan_in(
    key: Key, shape: tuple[int, ...], dtype: jnp.dtype, fan_in: int
) -> Array:
    """Draws from the uniform distribution on ±1/√fan_in; on ±1 for ``fan_in = 0``.

    Of a complex dtype, both parts are drawn so.
    """
    limit = 1 / math.sqrt(max(fan_in, 1))
    if jnp.issubdtype(dtype, jnp.complexfloating):
        part = jnp.zeros((), dtype).real.dtype
        real, imag = (_uniform(k, shape, part, limit) for k in jr.split(key))
        return lax.complex(real, imag)
    return _uniform(key, shape, dtype, limit)


_PADDED_SIZES = (2**8, 2**12, 2**16)  # the larger two take 0.1 and 0.4 ms to draw
_LARGEST = 2**24  # larger ones are not copied by way of the host


def _uniform(key: Key, shape: tuple[int, ...], dtype: Any, limit: float) -> Array:
    """Draws from the uniform distribution on ±limit.

    JAX compiles a program for each shape, which takes nearly all of the time that it
    takes to construct a model: 0.6 s for a shape of four axes, 0.2 s for one of a
    single axis. The numbers are the same ones, and those of a short array begin a
    longer one. So the sizes of small arrays are rounded up, and the numbers brought
    into shape on the host. Under tracing nothing runs, and the shape is drawn as it is.
    """
    size = math.prod(shape)
    is_traced = isinstance(key, jax.core.Tracer)
    if is_traced or size > _LARGEST or not _depends_on_place_only(key):
        return jr.uniform(key, shape, dtype, minval=-limit, maxval=limit)
    padded = next((n for n in _PADDED_SIZES if size <= n), size)
    values = jr.uniform(key, (padded,), dtype, minval=-limit, maxval=limit)
    if isinstance(values, jax.core.Tracer):  # a constant key in a traced function
        return jr.uniform(key, shape, dtype, minval=-limit, maxval=limit)
    numbers = jax.device_get(values)[:size]
    numbers = numbers if size == padded else numbers.copy()  # lets go of the rest
    return jax.device_put(numbers.reshape(shape))


def _depends_on_place_only(key: Key) -> bool:
    """Whether each number is a function of the key and its place alone.

    A key that was put on a certain device decides where the result goes.
    """
    return (
        jr.key_impl(key) == "threefry2x32"
        and bool(jax.config.jax_threefry_partitionable)  # type: ignore[attr-defined]
        and not key.committed
    )
