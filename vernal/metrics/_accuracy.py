"""The fraction of right guesses."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from ..nn._axes import read_axis_name
from ..nn._checks import check_state, is_size, require
from ..typing import AxisName
from ._counting import add_count, count_value, merge_counts, zero_count
from ._metric import Metric, check_labels, check_real, over_axes, read_mask


class Accuracy(Metric):
    """The fraction of examples whose label is among the largest logits.

    Of equal logits that of the class with the lower number counts as larger, as in
    ``argmax``. Where a logit is NaN, or a label is no class, the guess is wrong: leave
    padding out by ``mask``. Counts are exact integers.

    As ``nnx.metrics.Accuracy`` of Flax, and ``MulticlassAccuracy(average="micro")`` of
    torchmetrics. For two classes and one score, see :class:`Average`.

    Arguments:
        axis_name: None, or the name of the batch axis, or several names; see
            :class:`Metric`.
        top_k: how many guesses there are, at least 1.

    Attributes:
        index: the slot of the numbers of right guesses and of all.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: logits, labels and mask do not fit each other.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax.numpy as jnp
    >>> accuracy, state = vn.nn.make_with_state(vn.metrics.Accuracy)()
    >>> logits = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    >>> state = accuracy.update(logits, jnp.array([1, 0, 0]), state)
    >>> print(accuracy.compute(state))
    0.6666667
    """

    top_k: int = field(static=True)

    def __init__(self, axis_name: AxisName | None = None, *, top_k: int = 1) -> None:
        require(is_size(top_k), "Accuracy", "top_k", "an int ≥ 1", top_k)
        self.axis_name = read_axis_name("Accuracy", axis_name)
        self.index = StateIndex(zero_count((2,)), merge=merge_counts)
        self.top_k = top_k

    def update(
        self,
        logits: Float[Array, "*examples classes"],
        labels: Int[Array, "*examples"],
        state: State,
        *,
        mask: Bool[Array, "..."] | None = None,
    ) -> State:
        """Adds a batch, or with ``axis_name`` usually one example.

        Arguments:
            logits: a number for each class, along the last axis; larger is likelier.
            labels: the classes, of the shape of ``logits`` without its last axis.
            state: the state.
            mask: which examples count: booleans of the shape of ``labels``, or of its
                first axes.

        Returns:
            The new state.
        """
        check_state(self, state)
        check_real(self, logits, "array of logits", ndim=1)
        check_labels(self, labels, logits.shape[:-1])
        mask = read_mask(self, mask, labels.shape)
        hits = mask & is_among(logits, labels, self.top_k)
        both = jnp.stack([jnp.sum(x, dtype=jnp.int32) for x in (hits, mask)])
        count = add_count(state.get(self.index), over_axes(self, both))
        return state.set(self.index, count)

    def compute(self, state: State) -> Float[Array, ""]:
        """The fraction of right guesses; NaN if there was no example."""
        hits, total = count_value(state.get(self.index))
        return hits / total


def is_among(logits: Array, labels: Array, k: int) -> Array:
    """Whether each label is among the k largest of its logits."""
    classes = jnp.arange(logits.shape[-1]).reshape((1,) * labels.ndim + (-1,))
    labels = labels[..., None].astype(jnp.int32)
    is_own = classes == labels
    # The one entry of that class; of a label that is no class the first, for nothing.
    own = jnp.take_along_axis(logits, jnp.argmax(is_own, -1, keepdims=True), -1)
    is_before = (logits > own) | ((logits == own) & (classes < labels))
    rank = jnp.sum(is_before, -1)
    return (rank < k) & jnp.any(is_own, -1) & ~jnp.any(jnp.isnan(logits), -1)
