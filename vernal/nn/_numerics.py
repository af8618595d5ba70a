"""The arithmetic of normalization, as pure functions of arrays.

Everything is computed in at least float32; callers cast back to the input's dtype.
"""

import functools
import math
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType

from ..typing import Array, AxisName


def compute_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to compute in: float32 for the half precisions, else unchanged."""
    return np.promote_types(dtype, np.float32)  # JAX's would obey strict promotion


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


def sum_over(x: Array, names: tuple[Hashable, ...]) -> Array:
    """``lax.psum``, also over axes of ``vmap`` where JAX cannot do that.

    JAX (0.7 to 0.10) fails inside of ``shard_map``, unless ``check_vma=False``, and
    on a mesh with explicit axes. There is one collective over the devices in any case.
    """
    mesh = jax.typeof(x).sharding.mesh
    devices = jax.sharding.get_abstract_mesh().manual_axes
    if not devices and AxisType.Explicit not in mesh.axis_types:
        return lax.psum(x, names)
    for name in names:
        if name not in devices:
            x = _sum_mapped(x, lax.axis_index(name))
    across = tuple(name for name in names if name in devices)
    return lax.psum(x, across) if across else x


@custom_vmap
def _sum_mapped(x: Array, index: Array) -> Array:
    """Sums over that mapped axis along which ``index``, its position, differs."""
    return x


@_sum_mapped.def_vmap
def _sum_mapped_rule(
    axis_size: int, in_batched: list[bool], x: Array, index: Array
) -> tuple[Array, bool]:
    is_mapped, is_the_axis = in_batched
    if not is_the_axis:
        return _sum_mapped(x, index), is_mapped
    return (x.sum(0) if is_mapped else axis_size * x), False


# Compiled, as otherwise each call outside of `jit` would compile the `cond` anew.
# Inlined, so that within `jit` it is as if it were not there; it is traced only once.
@functools.partial(jax.jit, static_argnames="names", inline=True)
def batch_moments(
    x: Array, names: tuple[Hashable, ...], guess: Array
) -> tuple[Array, Array]:
    """Mean and biased variance of each channel over a batch on named axes.

    With any shift ``s``: ``mean = s + E[x - s]``, ``var = E[(x - s)²] - E[x - s]²``.
    This takes one pass over the data, and one collective of two numbers per channel.
    The difference cancels unless ``s`` is near the mean; where it is not, there is a
    second pass with a better shift.

    Arguments:
        x: one example, ``(channels, *spatial)``.
        names: the axes that hold the other examples.
        guess: the first shift, ``(channels,)``: usually a running mean. The result
            does not depend on it.

    Returns:
        Two arrays ``(channels,)``, the same for all examples.
    """
    x = x.reshape(x.shape[0], -1)
    guess = lax.stop_gradient(guess).astype(compute_dtype(x.dtype))
    # After a batch with NaN or absurd values in it, training must be able to go on.
    guess = jnp.where(jnp.isfinite(jnp.square(guess)), guess, 0)
    rough = _moments_about(guess, x, names)
    mean, variance = lax.stop_gradient(rough)
    # Within this bound, cancellation costs no more than 1e-5 of the variance, or (in a
    # constant channel) far less than the mean resolves.
    bound = 100 * variance + jnp.square(1e-5 * mean)
    is_fine = jnp.square(mean - guess) <= bound
    fixed = lax.stop_gradient(x)

    def again() -> tuple[Array, Array]:
        better, _ = _moments_about(jnp.zeros_like(guess), fixed, names)
        a, b = _moments_about(better, fixed, names)
        return jnp.where(is_fine, mean, a), jnp.where(is_fine, variance, b)

    mean, variance = lax.cond(jnp.all(is_fine), lambda: (mean, variance), again)
    variance = jnp.maximum(variance, 0)
    # With the derivatives of the first pass, which are right in any case.
    zeros = jax.tree.map(lambda a: a - lax.stop_gradient(a), rough)
    return mean + zeros[0], variance + zeros[1]


def _moments_about(
    shift: Array, x: Array, names: tuple[Hashable, ...]
) -> tuple[Array, Array]:
    centered = x.astype(shift.dtype) - shift[:, None]
    sums = jnp.stack([centered.sum(1), jnp.square(centered).sum(1)])
    count = x.shape[1] * lax.psum(1, names)
    first, second = sum_over(sums, names) / float(count)  # may exceed int32
    return shift + first, second - jnp.square(first)


def running_rate(count: Array, momentum: float, dtype: jnp.dtype) -> Array:
    """The weight of step ``count`` (from 1) in a debiased exponential average.

    ``(1 - m) / (1 - m**count)``: 1 at the first step, falling to ``1 - m``. To
    :func:`blend` at this rate gives at every step the weighted mean with weights
    ``m**age``, normalized to 1. So nothing has to be divided out later, and on
    constant data the average is exact from the first step on.
    """
    if momentum == 0:
        return jnp.ones((), dtype)
    if momentum == 1:  # the limit of the formula: a plain average
        return 1 / count.astype(dtype)
    log = math.log(momentum)
    rate = math.expm1(log) / jnp.expm1(count.astype(dtype) * log)
    return jnp.where(count == 1, 1, rate)  # not only to rounding


def blend(old: Array, new: Array, rate: Array) -> Array:
    """``old + rate * (new - old)``, and exactly ``new`` where the rate is 1.

    By the formula alone, ``new`` would be lost in the rounding of a much larger
    ``old``: a variance of 1e-7 in that of the initial variance 1.
    """
    start = jnp.where(rate == 1, new, old)
    return start + rate * (new - start)


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


@functools.partial(jax.jit, static_argnames=("steps", "eps", "forward"), inline=True)
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
