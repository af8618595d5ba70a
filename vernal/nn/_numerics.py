"""The arithmetic of normalization, as pure functions of arrays.

Everything is computed in at least float32; callers cast back to the input's dtype.
"""

import functools
from collections.abc import Hashable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..typing import Array, AxisName


def compute_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to compute in: float32 for the half precisions, else unchanged."""
    return np.promote_types(dtype, np.float32)  # JAX's would obey strict promotion


def axis_names(axis_name: AxisName) -> tuple[Hashable, ...]:
    """One name or several, as a tuple."""
    several = isinstance(axis_name, list | tuple)
    return tuple(axis_name) if several else (axis_name,)  # type: ignore[arg-type]


def moments(
    x: Array, axis: tuple[int, ...], mask: Array | None = None
) -> tuple[Array, Array]:
    """Mean and biased variance over ``axis``, kept as axes of size 1.

    Two passes, so that the variance is right where the mean is much larger than the
    standard deviation. With a mask that broadcasts against ``x``, they are of the
    entries where it is true; 0 and 0 if there are none.
    """
    x = x.astype(compute_dtype(x.dtype))
    if mask is None:
        mean = jnp.mean(x, axis, keepdims=True)
        return mean, jnp.mean(jnp.square(x - mean), axis, keepdims=True)
    mask = jnp.broadcast_to(mask, x.shape)
    count = jnp.maximum(mask.sum(axis, x.dtype, keepdims=True), 1)
    mean = jnp.where(mask, x, 0).sum(axis, keepdims=True) / count
    centered = jnp.where(mask, x - mean, 0)
    return mean, jnp.square(centered).sum(axis, keepdims=True) / count


def normalize(
    x: Array,
    mean: Array,
    variance: Array,
    eps: float,
    weight: Array | None,
    bias: Array | None,
) -> Array:
    """``(x - mean) / sqrt(variance + eps) * weight + bias``, in the dtype of ``x``.

    The statistics and parameters must broadcast against ``x``.
    """
    dtype = compute_dtype(x.dtype)
    scale = lax.rsqrt(variance.astype(dtype) + eps)
    if weight is not None:
        scale = scale * weight.astype(dtype)
    out = (x.astype(dtype) - mean.astype(dtype)) * scale
    if bias is not None:
        out = out + bias.astype(dtype)
    return out.astype(x.dtype)


@functools.partial(jax.jit, static_argnames=("steps", "eps"), inline=True)
def power_iteration(
    matrix: Array, u: Array, v: Array, steps: int, eps: float
) -> tuple[Array, Array]:
    """Moves ``u``, ``v`` towards the leading singular vectors of ``matrix``.

    Repeats ``v ← Mᵀu / |Mᵀu|``, ``u ← Mv / |Mv|``. Where the product vanishes, or is
    too large, the vector stays as it was: it could not leave zero or NaN again.
    """

    def unit(new: Array, old: Array) -> Array:
        norm = jnp.sqrt(jnp.sum(jnp.square(new)))
        usable = (norm > eps) & jnp.isfinite(norm)
        return jnp.where(usable, new / jnp.where(usable, norm, 1), old)

    def step(_: int, uv: tuple[Array, Array]) -> tuple[Array, Array]:
        u, v = uv
        v = unit(jnp.matmul(u, matrix, precision="highest"), v)
        return unit(jnp.matmul(matrix, v, precision="highest"), u), v

    if steps == 1:
        return step(0, (u, v))
    return lax.fori_loop(0, steps, step, (u, v))
