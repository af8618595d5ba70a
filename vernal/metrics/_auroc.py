"""The area under the ROC curve."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from ..nn._axes import read_axis_name
from ..nn._checks import check_state, is_number, is_size, require
from ..nn._numerics import compute_dtype
from ..typing import AxisName
from ._counting import add_count, count_value, merge_counts, zero_count
from ._metric import Metric, check_labels, check_real, over_axes, read_mask


class AUROC(Metric):
    r"""The area under the ROC curve, of a score that tells two classes apart.

    $$P(s_+ > s_-) + \tfrac12 P(s_+ = s_-)$$

    for the scores of a positive and a negative example. It needs all scores; what is
    kept are counts of both classes in bins of equal width. Scores in different bins
    are compared exactly, and those in one bin count as equal. So the error is at most
    half of the fraction of pairs that share a bin, which :meth:`max_error` tells: with
    scores that are spread evenly ``1 / (2 num_bins)``, in practice a small part of
    that, and none where scores are fewer than bins and each has its own.

    As ``roc_auc_score`` of scikit-learn, and ``BinaryAUROC(thresholds=…)`` of
    torchmetrics, which tells no bound.

    Arguments:
        axis_name: None, or the name of the batch axis, or several names; see
            :class:`Metric`.
        num_bins: number of bins, at least 2.
        low, high: where the bins begin and end; scores outside of that go into the
            first and the last bin. By default these are probabilities: for logits, use
            ``jax.nn.sigmoid``, which keeps their order.

    Attributes:
        index: the slot of the counts.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: scores, labels and mask do not fit each other.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax.numpy as jnp
    >>> auroc, state = vn.nn.make_with_state(vn.metrics.AUROC)()
    >>> scores, labels = jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])
    >>> state = auroc.update(scores, labels, state)
    >>> print(auroc.compute(state), auroc.max_error(state))
    0.75 0.0
    """

    num_bins: int = field(static=True)
    low: float = field(static=True)
    high: float = field(static=True)

    def __init__(
        self,
        axis_name: AxisName | None = None,
        *,
        num_bins: int = 1024,
        low: float = 0.0,
        high: float = 1.0,
    ) -> None:
        require(is_size(num_bins, 2), "AUROC", "num_bins", "an int ≥ 2", num_bins)
        require(is_number(low, -math.inf), "AUROC", "low", "a number", low)
        ok = is_number(high, -math.inf) and high > low
        require(ok, "AUROC", "high", f"a number > low = {low}", high)
        self.axis_name = read_axis_name("AUROC", axis_name)
        self.index = StateIndex(zero_count((2, num_bins)), merge=merge_counts)
        self.num_bins = int(num_bins)
        self.low, self.high = float(low), float(high)

    def update(
        self,
        scores: Float[Array, "*examples"],
        labels: Shaped[Array, "*examples"],
        state: State,
        *,
        mask: Bool[Array, "..."] | None = None,
    ) -> State:
        """Adds a batch, or with ``axis_name`` usually one example.

        Arguments:
            scores: a number for each example, larger for the positive class. NaN counts
                as wrong: the highest of a negative, the lowest of a positive one.
            labels: booleans, or integers of which those above 0 are positive.
            state: the state.
            mask: which examples count: booleans of the shape of ``scores``, or of its
                first axes.

        Returns:
            The new state.
        """
        check_state(self, state)
        check_real(self, scores, "array of scores")
        check_labels(self, labels, scores.shape, booleans=True)
        mask = read_mask(self, mask, scores.shape)
        n, is_positive = self.num_bins, jnp.asarray(labels)
        if is_positive.dtype != bool:
            is_positive = is_positive > 0
        is_float = jnp.issubdtype(scores.dtype, jnp.floating)
        wide = compute_dtype(scores.dtype) if is_float else jnp.float32
        place = (scores.astype(wide) - self.low) * (n / (self.high - self.low))
        wrong = jnp.where(is_positive, 0.0, n - 1.0).astype(wide)
        place = jnp.where(jnp.isnan(place), wrong, jnp.clip(place, 0, n - 1))
        cells = is_positive.astype(jnp.int32) * n + place.astype(jnp.int32)
        cells = jnp.where(mask, cells, 2 * n)  # which is dropped
        new = jnp.zeros(2 * n, jnp.uint32).at[cells].add(1, mode="drop")
        count = add_count(state.get(self.index), over_axes(self, new.reshape(2, n)))
        return state.set(self.index, count)

    def compute(self, state: State) -> Float[Array, ""]:
        """The area, to :meth:`max_error`; NaN before there are both classes."""
        negative, positive = self._fractions(state)
        return jnp.sum(positive * (jnp.cumsum(negative) - negative / 2))

    def max_error(self, state: State) -> Float[Array, ""]:
        """How far :meth:`compute` can be from the area without bins (up to 1e-6)."""
        negative, positive = self._fractions(state)
        return jnp.sum(positive * negative) / 2

    def _fractions(self, state: State) -> Array:
        value = count_value(state.get(self.index))
        return value / jnp.sum(value, 1, keepdims=True)
