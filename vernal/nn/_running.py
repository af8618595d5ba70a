"""Running averages of batch statistics, as pure functions of arrays."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..typing import Array
from ._batch_moments import Moments

Pair = tuple[Array, Array]  # mean and variance, (channels,) each


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


def average(old: Pair, new: Pair, rate: Array) -> tuple[Pair, Pair]:
    """The running averages with this batch, and what to store of them."""
    stored = old[0].dtype
    dtype = np.promote_types(stored, new[0].dtype)
    mean, variance = (
        blend(a.astype(dtype), b.astype(dtype), rate.astype(dtype))
        for a, b in zip(old, new, strict=True)
    )
    kept = (mean.astype(stored), variance.astype(stored))
    return (mean, variance), lax.stop_gradient(kept)


def select(batch: Moments, new: Pair, old: Pair) -> Pair:
    """The new values, but the old where fewer than two values of the batch count.

    Nothing is to be selected where that is known not to happen.
    """
    if isinstance(batch.number, float):
        return new
    enough = batch.number >= 2
    mean, variance = (
        jnp.where(enough, a, b.astype(a.dtype)) for a, b in zip(new, old, strict=True)
    )
    return mean, variance


def where_seen(number: Array, new: Pair, old: Pair) -> Pair:
    """The moments of ``number`` values, but the old where there was none."""
    seen = number.reshape(number.shape + (1,) * (old[0].ndim - number.ndim)) > 0
    mean, variance = (
        jnp.where(seen, a.astype(b.dtype), b) for a, b in zip(new, old, strict=True)
    )
    return mean, variance


def update(
    steps: Array, running: Pair, batch: Moments, momentum: float | None, unbiased: bool
) -> tuple[Array, Pair]:
    """Takes one batch into the running averages; if none of its values count, nothing.

    Arguments:
        steps: the number of batches so far; without momentum, of values per channel.
        running: the averages so far.
        batch: the statistics of the batch, or of its groups.
        momentum: weight of the past; None weighs all values equally.
        unbiased: of what is stored, whether it is the unbiased variance.

    Returns:
        The new number and the new averages, without derivatives.
    """
    known = batch.number if isinstance(batch.number, float) else None
    return _update(steps, running, batch, known, momentum, unbiased)


@functools.partial(jax.jit, static_argnames=("known", "momentum", "unbiased"))
def _update(
    steps: Array,
    running: Pair,
    batch: Moments,
    known: float | None,
    momentum: float | None,
    unbiased: bool,
) -> tuple[Array, Pair]:
    """As :func:`update`, with the number of values apart where it is known."""
    batch = batch if known is None else batch._replace(number=known)
    if momentum is None:
        return _pool(steps, running, _united(batch, is_pooled=True), unbiased)
    if unbiased:  # groups are batches of their own
        batch = batch._replace(variance=batch.variance * _bessel(batch.number))
    batch = _united(batch, is_pooled=False)
    rate = running_rate(steps + 1, momentum, running[0].dtype)
    _, new = average(running, batch[:2], rate)
    if isinstance(batch.number, float):
        return steps + 1, new
    after = jnp.where(batch.number[0] >= 2, steps + 1, steps)
    return after, select(batch, new, running)


def _pool(
    values: Array, running: Pair, batch: Moments, unbiased: bool
) -> tuple[Array, Pair]:
    """Mean and variance of all values, from those of two parts (Chan et al.)."""
    count = batch.number if isinstance(batch.number, float) else batch.number[0]
    count = jnp.asarray(count, values.dtype)
    mean, variance = running
    if unbiased:
        variance = variance * jnp.maximum(values - 1, 0) / jnp.maximum(values, 1)
    total = values + count
    rate = count / jnp.maximum(total, 1)
    _, (new_mean, within) = average((mean, variance), batch[:2], rate)
    distance = batch.mean.astype(mean.dtype) - mean
    pooled = within + rate * (1 - rate) * jnp.square(distance)
    pooled = pooled * _bessel(total) if unbiased else pooled
    is_any = count > 0  # else not even the rounding changes
    kept = jnp.where(is_any, new_mean, mean), jnp.where(is_any, pooled, running[1])
    return lax.stop_gradient((total, kept))


def _bessel(count: Array | float) -> Array | float:
    """``n / (n - 1)``; 1 for a single value, whose variance is 0."""
    if isinstance(count, float):
        return count / max(count - 1, 1)
    return count / jnp.maximum(count - 1, 1)


def _united(batch: Moments, is_pooled: bool) -> Moments:
    """One batch in the place of its groups, each with the weight of its values.

    Pooled, it has the variance of all values, with that between the groups; else the
    mean of the variances of groups, where a single value has none.
    """
    if isinstance(batch.number, float) or batch.number.ndim == 1:
        return batch
    count, variance = batch.number, batch.variance
    count = count if is_pooled else jnp.where(count >= 2, count, 0)
    total = count.sum(0)
    weight = count / jnp.maximum(total, 1)[None]
    mean = (weight * batch.mean).sum(0)
    if is_pooled:
        variance = variance + jnp.square(batch.mean - mean[None])
    return Moments(mean, (weight * variance).sum(0), total)
