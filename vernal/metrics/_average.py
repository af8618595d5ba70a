"""The average of numbers."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from .._state.index import StateIndex
from .._state.state import State
from ..nn._axes import read_axis_name
from ..nn._checks import check_state
from ..typing import AxisName
from ._counting import (
    add_count,
    add_sum,
    count_value,
    merge_counts,
    merge_sums,
    zero_count,
    zero_sum,
)
from ._metric import Metric, check_real, over_axes, read_mask


class Average(Metric):
    r"""The average of all numbers that it was given, such as losses.

    $$\frac{1}{n} \sum_{i=1}^{n} x_i$$

    Each number weighs the same, whatever the size of its batch. Their sum keeps what
    rounding takes away, so that a million batches are as good as one. The accuracy of
    two classes by one score is ``Average`` of ``(score > 0) == label``.

    Flax calls it ``nnx.metrics.Average``, torchmetrics ``MeanMetric``; both add up in
    plain float32.

    Arguments:
        axis_name: None, or the name of the batch axis, or several names; see
            :class:`Metric`.

    Attributes:
        index: the slot of the sum and of the count.

    Raises:
        HyperparameterError: ``axis_name`` is not a name.
        InputError: the values are not real numbers, or the mask does not fit.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax.numpy as jnp
    >>> loss, state = vn.nn.make_with_state(vn.metrics.Average)()
    >>> values, mask = jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])
    >>> state = loss.update(values, state, mask=mask)
    >>> print(loss.compute(state))
    2.0
    """

    def __init__(self, axis_name: AxisName | None = None) -> None:
        self.axis_name = read_axis_name("Average", axis_name)
        self.index = StateIndex((zero_sum(), zero_count()), merge=_merge)

    def update(
        self,
        values: Real[Array, "*shape"] | float,
        state: State,
        *,
        mask: Bool[Array, "..."] | None = None,
    ) -> State:
        """Adds numbers.

        Arguments:
            values: a number, or an array of any shape of which all entries count.
            state: the state.
            mask: where values count: booleans of the shape of ``values``, or of its
                first axes. What does not count may be NaN.

        Returns:
            The new state.
        """
        check_state(self, state)
        values = jnp.asarray(values) if isinstance(values, float | int) else values
        check_real(self, values, "array of values")
        mask = read_mask(self, mask, values.shape)
        total, count = state.get(self.index)
        kept = jnp.where(mask, values.astype(total.dtype), 0)
        total = add_sum(total, over_axes(self, jnp.sum(kept)))
        count = add_count(count, over_axes(self, jnp.sum(mask, dtype=jnp.int32)))
        return state.set(self.index, (total, count))

    def compute(self, state: State) -> Float[Array, ""]:
        """The average of all that was added; NaN if that is nothing."""
        total, count = state.get(self.index)
        return jnp.sum(total) / count_value(count).astype(total.dtype)


def _merge(values: Any, _: Any) -> Any:
    totals, counts = zip(*values, strict=True)
    return merge_sums(totals, _), merge_counts(counts, _)
