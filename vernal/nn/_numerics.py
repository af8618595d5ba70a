"""The arithmetic of normalization, as pure functions of arrays.

Everything is computed in at least float32; callers cast back to the input's dtype.
"""

import math
from collections.abc import Hashable

import jax.numpy as jnp
from jax import lax

from ..typing import Array, AxisName


def compute_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to compute in: float32 for the half precisions, else unchanged."""
    return jnp.promote_types(dtype, jnp.float32)


def axis_names(axis_name: AxisName) -> tuple[Hashable, ...]:
    """One name or several, as a tuple."""
    several = isinstance(axis_name, list | tuple)
    return tuple(axis_name) if several else (axis_name,)  # type: ignore[arg-type]


def moments(x: Array, axis: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and biased variance over ``axis``, kept as axes of size 1.

    Two passes, so that the variance is right where the mean is much larger than the
    standard deviation.
    """
    x = x.astype(compute_dtype(x.dtype))
    mean = jnp.mean(x, axis, keepdims=True)
    return mean, jnp.mean(jnp.square(x - mean), axis, keepdims=True)


def batch_moments(
    x: Array, names: tuple[Hashable, ...], previous: Array, is_first: Array
) -> tuple[Array, Array]:
    """Mean and biased variance of each channel over a batch on named axes.

    With a shift ``s``: ``mean = s + E[x - s]``, ``var = E[(x - s)²] - E[x - s]²``.
    One pass over the data and one collective of two numbers per channel. The shift
    does not change the result, but ``s`` near the mean keeps the difference from
    cancelling: the running mean serves, and before there is one, some of the data.

    Arguments:
        x: one example, ``(channels, *spatial)``.
        names: the axes that hold the other examples.
        previous: the running mean, ``(channels,)``.
        is_first: whether ``previous`` means nothing yet.

    Returns:
        Two arrays ``(channels,)``, the same for all examples.
    """
    x = x.astype(compute_dtype(x.dtype)).reshape(x.shape[0], -1)
    sample = lax.stop_gradient(x[:, 0])
    previous = lax.stop_gradient(previous.astype(x.dtype))
    # Only the first step pays for the second collective.
    shift = lax.cond(is_first, lambda: lax.pmean(sample, names), lambda: previous)
    centered = x - shift[:, None]
    sums = jnp.stack([centered.sum(1), jnp.square(centered).sum(1)])
    first, second = lax.psum(sums, names) / (x.shape[1] * lax.psum(1, names))
    return shift + first, jnp.maximum(second - jnp.square(first), 0)


def running_rate(count: Array, momentum: float, dtype: jnp.dtype) -> Array:
    """The weight of step ``count`` (from 1) in a debiased exponential average.

    ``(1 - m) / (1 - m**count)``: 1 at the first step, falling to ``1 - m``. Averaging
    at this rate, ``r += rate * (x - r)``, gives at every step the weighted mean with
    weights ``m**age``, normalized to 1. So nothing has to be divided out later, and
    on constant data ``r`` is exact from the first step on.
    """
    if momentum == 0:
        return jnp.ones((), dtype)
    if momentum == 1:  # the limit of the formula: a plain average
        return 1 / count.astype(dtype)
    log = math.log(momentum)
    return math.expm1(log) / jnp.expm1(count.astype(dtype) * log)


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


def power_iteration(
    matrix: Array, u: Array, v: Array, steps: int, eps: float
) -> tuple[Array, Array]:
    """Moves ``u``, ``v`` towards the leading singular vectors of ``matrix``.

    Repeats ``v ← Mᵀu / |Mᵀu|``, ``u ← Mv / |Mv|``. Where the product vanishes the
    vector stays as it was: it could not leave zero again.
    """

    def unit(new: Array, old: Array) -> Array:
        norm = jnp.sqrt(jnp.sum(jnp.square(new)))
        return jnp.where(norm > eps, new / jnp.maximum(norm, eps), old)

    def step(_: int, uv: tuple[Array, Array]) -> tuple[Array, Array]:
        u, v = uv
        v = unit(jnp.matmul(u, matrix, precision="highest"), v)
        return unit(jnp.matmul(matrix, v, precision="highest"), u), v

    if steps == 1:
        return step(0, (u, v))
    return lax.fori_loop(0, steps, step, (u, v))
