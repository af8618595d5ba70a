"""Mean and variance of a batch that lies on named axes: sums, counts, one collective.

Everything is computed in at least float32.
"""

import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType

from ..typing import Array
from ._numerics import compute_dtype

Groups = tuple[tuple[int, ...], ...]
Pair = tuple[Array, Array]


# From a shift of 1e19, each pass comes nearer to the mean by five orders of magnitude.
_MOST_PASSES = 8


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
    The difference cancels unless ``s`` is near the mean; where it is not, it is
    done again with the mean that was found.

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


# Outside of `jit`, each call would compile the loop anew.
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
    averages = functools.partial(
        _averages,
        names=names,
        mask=None if mask is None else mask.reshape(1, -1),
        groups=groups,
    )
    fixed = lax.stop_gradient(x)

    def is_rough(found: tuple[Any, ...]) -> Array:
        passes, shift, (first, second) = found
        mean, variance = shift + first, second - jnp.square(first)
        # Within this bound, cancellation costs no more than 1e-5 of the variance, or
        # (in a constant channel) far less than the mean resolves.
        is_fine = jnp.square(first) <= 100 * variance + jnp.square(1e-5 * mean)
        can_improve = jnp.isfinite(mean) & (passes < _MOST_PASSES)
        return jnp.any(~is_fine & can_improve)

    def again(found: tuple[Any, ...]) -> tuple[Any, ...]:
        passes, shift, (first, _) = found
        mean = shift + first
        return passes + 1, mean, averages(mean, fixed)[0]

    rough, count = averages(guess, fixed)
    start = jnp.where(True, guess, rough[0])  # the guess, as varying as the means
    found = lax.while_loop(is_rough, again, (np.int32(1), start, rough))
    _, shift, (first, second) = found
    mean, variance = shift + first, jnp.maximum(second - jnp.square(first), 0)
    # Of this pass nothing is computed but the derivatives: about the mean, the first
    # average is known to be 0.
    first, second = averages(mean, x)[0]
    first = _differentiated_as(jnp.zeros_like(first), first)
    mean = _differentiated_as(mean, first)
    variance = _differentiated_as(variance, second - jnp.square(first))
    return mean, variance, count


@jax.custom_jvp
def _differentiated_as(value: Array, other: Array) -> Array:
    """The value, with the derivatives of the other one, which is equal but rounded."""
    # Of both, as JAX (0.10) fails where only the derivative is mapped by a `vmap`.
    return jnp.where(True, value, other)


@_differentiated_as.defjvp
def _differentiated_as_rule(primals: Pair, tangents: Pair) -> Pair:
    return _differentiated_as(*primals), tangents[1]


def _averages(
    shift: Array,
    x: Array,
    names: tuple[Hashable, ...],
    mask: Array | None,
    groups: Groups | None,
) -> tuple[Array, Array | None]:
    """``E[x - s]`` and ``E[(x - s)²]``, stacked; and of how many values, if masked."""
    group = None if groups is None else group_of(groups, names)
    own = shift if group is None else shift[group]
    centered = x.astype(shift.dtype) - own[:, None]
    if mask is not None:
        centered = jnp.where(mask, centered, 0)
    sums = [centered.sum(1), jnp.square(centered).sum(1)]
    if mask is None and groups is None:
        total = sum_over(jnp.stack(sums), names)
        return total / float(x.shape[1] * lax.psum(1, names)), None
    values = (
        jnp.full_like(own, x.shape[1]) if mask is None else mask.sum(dtype=own.dtype)
    )
    sums.append(jnp.broadcast_to(values, own.shape))
    stacked = jnp.stack(sums)
    if group is not None and groups is not None:
        is_own = (jnp.arange(len(groups)) == group)[:, None]
        stacked = jnp.where(is_own, stacked[:, None], 0)
    total = sum_over(stacked, names)
    return total[:2] / jnp.maximum(total[2:], 1), total[2]
