"""Counts and sums that stay exact where those of float32 and int32 do not.

A count is an array ``(2, ...)`` of uint32, ``2**32`` high + low: exact up to 2**64. A
sum is an array ``(2,)``, a float and what was lost in rounding it: exact to some 48
bits. Float32 alone stops to count at 2**24, and int32 overflows at 2**31.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ..nn._init import default_dtype
from ..typing import Array


def zero_count(shape: tuple[int, ...] = ()) -> Array:
    """A count of nothing."""
    return jnp.zeros((2, *shape), jnp.uint32)


def add_count(count: Array, more: Array) -> Array:
    """A count and another one, or integers from 0 to 2**32 - 1."""
    is_count = more.ndim == count.ndim
    high, new = more if is_count else (jnp.zeros_like(more), more)
    low = count[1] + new.astype(jnp.uint32)
    carry = (low < count[1]).astype(jnp.uint32)
    return jnp.stack([count[0] + high.astype(jnp.uint32) + carry, low])


def count_value(count: Array) -> Array:
    """The count as a floating number, rounded once or twice."""
    dtype = default_dtype(None)
    high, low = count.astype(dtype)
    return high * jnp.asarray(2.0**32, dtype) + low


def merge_counts(counts: Sequence[Array], _: Any) -> Array:
    """The rule of ``merge_states`` for a count: the sum."""
    return functools.reduce(add_count, counts)


def zero_sum() -> Array:
    """A sum of nothing."""
    return jnp.zeros(2, default_dtype(None))


def add_sum(total: Array, more: Array) -> Array:
    """A sum and another one, or a floating number.

    The rounding of each addition is found by subtraction, and kept (Knuth's TwoSum).
    """
    x, lost = more if more.ndim else (more, jnp.zeros_like(more))
    old, error = total
    new = old + x
    part = new - old
    error = error + lost + ((old - (new - part)) + (x - part))
    both = new + error
    # After an infinite value the error would be NaN, and not the sum.
    rest = jnp.where(jnp.isfinite(both), error - (both - new), 0)
    return jnp.stack([jnp.where(jnp.isfinite(new), both, new), rest])


def merge_sums(totals: Sequence[Array], _: Any) -> Array:
    """The rule of ``merge_states`` for a sum."""
    return functools.reduce(add_sum, totals)
