"""Mean and variance of a batch that lies on named axes: sums, counts, one collective.

Everything is computed in at least float32.
"""

import functools
from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType

from ..typing import Array
from ._numerics import compute_dtype

Groups = tuple[tuple[int, ...], ...]


class Moments(NamedTuple):
    """Mean and biased variance of each channel, and of how many values they are.

    Arrays are ``(channels,)``, or with groups ``(groups, channels)``. The number is a
    float where it is the same for all and known when tracing, and else such an array.
    """

    mean: Array
    variance: Array
    number: Array | float


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


def group_of(groups: Groups, names: tuple[Hashable, ...]) -> Array:
    """The number of this example's group; groups are of positions on the last name."""
    table = np.empty(sum(map(len, groups)), np.int32)
    for number, members in enumerate(groups):
        table[list(members)] = number
    return jnp.asarray(table)[lax.axis_index(names[-1])]


def batch_moments(
    x: Array,
    names: tuple[Hashable, ...],
    guess: Array,
    mask: Array | None = None,
    groups: Groups | None = None,
) -> Moments:
    """Mean, biased variance and number of values of each channel over a batch.

    With any shift ``s``: ``mean = s + E[x - s]``, ``var = E[(x - s)²] - E[x - s]²``.
    This takes one pass over the data, and one collective of two numbers per channel.
    The difference cancels unless ``s`` is near the mean; where it is not, there is a
    second pass with a better shift.

    Arguments:
        x: one example, ``(channels, *spatial)``.
        names: the axes that hold the other examples.
        guess: the first shift, ``(channels,)``: usually a running mean. The result
            does not depend on it.
        mask: ``spatial``, where values count; with it, counts are summed in the same
            collective. Of no values the mean is any finite number, the variance 0.
        groups: positions on the last named axis that are batches of their own. Each
            example has the moments of all groups, also in one collective: of values
            that are 0 but in the row of the example's own group.

    Returns:
        The same for all examples.
    """
    mean, variance, count = _batch_moments(x, names, guess, mask, groups)
    if count is None:
        size = x.size // x.shape[0]
        count = float(size * lax.psum(1, names))  # may exceed int32
    return Moments(mean, variance, count)


def whole_batch_moments(x: Array, guess: Array, mask: Array | None = None) -> Moments:
    """As :func:`batch_moments`, of ``(batch, channels, *spatial)`` in one array."""

    def one(x: Array, mask: Array | None) -> Moments:
        return batch_moments(x, ("whole batch",), guess, mask)

    moments = jax.vmap(one, axis_name="whole batch", out_axes=None)(x, mask)
    if mask is not None:
        return moments
    return moments._replace(number=float(x.size // x.shape[1]))


# Outside of `jit`, each call would compile the `cond` anew.
@functools.partial(jax.jit, static_argnames=("names", "groups"))
def _batch_moments(
    x: Array,
    names: tuple[Hashable, ...],
    guess: Array,
    mask: Array | None,
    groups: Groups | None,
) -> tuple[Array, Array, Array | None]:
    x = x.reshape(x.shape[0], -1)
    guess = lax.stop_gradient(guess).astype(compute_dtype(x.dtype))
    # After a batch with NaN or absurd values in it, training must be able to go on.
    guess = jnp.where(jnp.isfinite(jnp.square(guess)), guess, 0)
    if groups is not None:
        guess = jnp.broadcast_to(guess, (len(groups), *guess.shape))
    about = functools.partial(
        _moments_about,
        names=names,
        mask=None if mask is None else mask.reshape(1, -1),
        groups=groups,
    )
    *rough, count = about(guess, x)
    mean, variance = lax.stop_gradient(rough)
    # Within this bound, cancellation costs no more than 1e-5 of the variance, or (in a
    # constant channel) far less than the mean resolves.
    bound = 100 * variance + jnp.square(1e-5 * mean)
    is_fine = jnp.square(mean - guess) <= bound
    fixed = lax.stop_gradient(x)

    def again() -> tuple[Array, Array]:
        better, _, _ = about(jnp.zeros_like(guess), fixed)
        a, b, _ = about(better, fixed)
        return jnp.where(is_fine, mean, a), jnp.where(is_fine, variance, b)

    mean, variance = lax.cond(jnp.all(is_fine), lambda: (mean, variance), again)
    variance = jnp.maximum(variance, 0)
    # With the derivatives of the first pass, which are right in any case.
    zeros = jax.tree.map(lambda a: a - lax.stop_gradient(a), rough)
    return mean + zeros[0], variance + zeros[1], count


def _moments_about(
    shift: Array,
    x: Array,
    names: tuple[Hashable, ...],
    mask: Array | None,
    groups: Groups | None,
) -> tuple[Array, Array, Array | None]:
    group = None if groups is None else group_of(groups, names)
    own = shift if group is None else shift[group]
    centered = x.astype(shift.dtype) - own[:, None]
    if mask is not None:
        centered = jnp.where(mask, centered, 0)
    sums = [centered.sum(1), jnp.square(centered).sum(1)]
    if mask is None and groups is None:
        total = sum_over(jnp.stack(sums), names)
        first, second = total / float(x.shape[1] * lax.psum(1, names))
        return shift + first, second - jnp.square(first), None
    values = (
        jnp.full_like(own, x.shape[1]) if mask is None else mask.sum(dtype=own.dtype)
    )
    sums.append(jnp.broadcast_to(values, own.shape))
    stacked = jnp.stack(sums)
    if group is not None and groups is not None:
        is_own = (jnp.arange(len(groups)) == group)[:, None]
        stacked = jnp.where(is_own, stacked[:, None], 0)
    *sums, count = sum_over(stacked, names)
    first, second = (a / jnp.maximum(count, 1) for a in sums)
    return shift + first, second - jnp.square(first), count
