"""The slots of running averages, and how those of several states become one."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from .._state.index import StateIndex
from ..typing import Array

_Siblings = Callable[[str], Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class MergeCounts:
    """The rule of a counter: of steps that fade with time, the most; else the sum."""

    momentum: float | None

    def __call__(self, counts: Sequence[Array], _: _Siblings) -> Array:
        fades = self.momentum is not None and self.momentum < 1
        stacked = jnp.stack(counts)
        return jnp.max(stacked, 0) if fades else jnp.sum(stacked, 0, stacked.dtype)


def merge_first_time(flags: Sequence[Array], _: _Siblings) -> Array:
    """The rule of a flag "no step yet": none in any of the states."""
    return jnp.all(jnp.stack(flags), axis=0)


def merge_to_first(values: Sequence[Any], _: _Siblings) -> Any:
    """The rule of what any state has as good as another: a start for an iteration."""
    return values[0]


@dataclasses.dataclass(frozen=True)
class MergeMoments:
    """The rule of a mean and a variance: usually those of the mixture.

    Shares are computed and multiplied in the dtype of the moments. The variance is
    taken around the common mean, so that nothing cancels.
    """

    counter: str
    """The attribute of the slot that counts steps, or says that there was none."""

    momentum: float | None
    """None if the slot counts values, and all of them weigh the same."""

    has_spread: bool = True
    """Whether the variance is that of all values, or only the mean of variances."""

    def __call__(
        self, moments: Sequence[tuple[Array, Array]], sibling: _Siblings
    ) -> tuple[Array, Array]:
        means, variances = (jnp.stack(x) for x in zip(*moments, strict=True))
        shares = self._shares(jnp.stack(sibling(self.counter)), means.dtype)
        shares = shares.reshape(shares.shape + (1,) * (means.ndim - shares.ndim))
        mean = jnp.sum(shares * means, 0, keepdims=True)
        if self.has_spread:
            variances += (means - mean) ** 2
        return mean[0], jnp.sum(shares * variances, 0)

    def _shares(self, counts: Array, dtype: Any) -> Array:
        """How much each state weighs, along the first axis; their sum is 1."""
        if counts.dtype == bool:  # whether there was no step yet
            weights = (~counts).astype(dtype)
        elif self.momentum is None or self.momentum == 1:
            weights = counts.astype(dtype)
        elif self.momentum == 0:
            weights = (counts > 0).astype(dtype)
        else:  # the sum of momentum**age over the steps, up to a factor
            weights = -jnp.expm1(counts.astype(dtype) * math.log(self.momentum))
        total = jnp.sum(weights, 0, keepdims=True)
        equal = jnp.full_like(weights, 1 / len(weights))  # all are as at the start
        return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), equal)


def running_slots(
    identity: tuple[Array, Array],
    momentum: float | None,
    counter: str,
    count: Array | None = None,
    has_spread: bool = True,
) -> tuple[StateIndex[Array], StateIndex[tuple[Array, Array]]]:
    """The slots of a layer's counter, which is the attribute ``counter``, and moments.

    With ``momentum=None`` values are counted, of which there are more than an int32 can
    tell.
    """
    if count is None:
        count = jnp.array(0, identity[0].dtype if momentum is None else jnp.int32)
    rule = MergeMoments(counter, momentum, has_spread)
    slot = StateIndex(count, merge=MergeCounts(momentum))
    return slot, StateIndex(identity, merge=rule)
