"""The arithmetic of normalization, as pure functions of arrays.

Everything is computed in at least float32; callers cast back to the input's dtype.

What a layer does at each call is one compiled function here and in its neighbors. A
model has many layers of few kinds, and JAX traces, differentiates, batches and lowers
such a function once for all calls with these shapes, which makes tracing a deep network
two or three times as fast. XLA takes the calls apart again before it optimizes.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

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


@functools.partial(jax.jit, static_argnames="axis")
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


@functools.partial(jax.jit, static_argnames="eps")
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


def times(matrix: Array, v: Array) -> Array:
    """``M v``, also on accelerators without rounding to less than float32."""
    return jnp.matmul(matrix, v, precision="highest")


@functools.partial(jax.jit, static_argnames="forward")
def gain(
    operand: Any,
    u: Array,
    v: Array,
    forward: Callable[[Any, Array], Array] = times,
) -> Array:
    """``uᵀ M v`` of a linear map: at its leading singular vectors, its norm."""
    return jnp.vdot(u, forward(operand, v), precision="highest")


@functools.partial(jax.jit, static_argnames=("steps", "eps", "forward"))
def power_iteration(
    operand: Any,
    u: Array,
    v: Array,
    steps: int,
    eps: float,
    forward: Callable[[Any, Array], Array] = times,
) -> tuple[Array, Array]:
    """Moves ``u``, ``v`` towards the leading singular vectors of a linear map M.

    Repeats ``v ← Mᵀu / |Mᵀu|``, ``u ← Mv / |Mv|``. Where the product vanishes, or is
    too large, the vector stays as it was: it could not leave zero or NaN again.

    Arguments:
        operand: what ``forward`` needs: the matrix, or arrays of a layer.
        u: a unit vector, an array of any shape.
        v: likewise.
        steps: number of repetitions.
        eps: products shorter than this count as zero.
        forward: ``M v = forward(operand, v)``, linear in ``v``.
    """

    def unit(new: Array, old: Array) -> Array:
        norm = jnp.sqrt(jnp.sum(jnp.square(new)))
        usable = (norm > eps) & jnp.isfinite(norm)
        return jnp.where(usable, new / jnp.where(usable, norm, 1), old)

    def apply(v: Array) -> Array:
        return forward(operand, v)

    transpose = jax.linear_transpose(apply, v)

    def step(_: int, uv: tuple[Array, Array]) -> tuple[Array, Array]:
        u, v = uv
        v = unit(transpose(u)[0], v)
        return unit(apply(v), u), v

    if steps <= 4:  # convolutions in loops are slow on CPUs, by a factor of 30
        for i in range(steps):
            u, v = step(i, (u, v))
        return u, v
    return lax.fori_loop(0, steps, step, (u, v))
