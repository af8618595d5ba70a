"""Which class is taken for which."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from ..nn._axes import read_axis_name
from ..nn._checks import check_state, fail, is_size, require
from ..nn._init import default_dtype
from ..typing import AxisName
from ._counting import add_count, count_value, merge_counts, zero_count
from ._metric import Metric, check_labels, check_real, over_axes, read_mask

_SUMMED = {"true": 1, "pred": 0, "all": (0, 1)}


class ConfusionMatrix(Metric):
    """How many examples of each class were taken for which: ``count[label, guess]``.

    As ``confusion_matrix`` of scikit-learn. Counts are exact integers. An example is
    not counted where the label or the guess is no class, or a logit is NaN.

    Arguments:
        num_classes: number of classes, at least 1.
        axis_name: None, or the name of the batch axis, or several names; see
            :class:`Metric`. With a name each example makes a matrix of its own before
            they are added up: for hundreds of classes give it whole batches instead.

    Attributes:
        index: the slot of the counts.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: guesses, labels and mask do not fit each other.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax.numpy as jnp
    >>> make = vn.nn.make_with_state(vn.metrics.ConfusionMatrix)
    >>> confusion, state = make(2)
    >>> guesses, labels = jnp.array([0, 1, 1, 1]), jnp.array([0, 0, 1, 1])
    >>> state = confusion.update(guesses, labels, state)
    >>> print(confusion.table(state, ["cat", "dog"]))
         cat  dog
    cat    1    1
    dog    0    2
    """

    num_classes: int = field(static=True)

    def __init__(self, num_classes: int, axis_name: AxisName | None = None) -> None:
        name, n = "ConfusionMatrix", num_classes
        require(is_size(n), name, "num_classes", "an int ≥ 1", n)
        self.axis_name = read_axis_name(name, axis_name)
        self.index = StateIndex(zero_count((n, n)), merge=merge_counts)
        self.num_classes = int(n)

    def update(
        self,
        guesses: Shaped[Array, "..."],
        labels: Int[Array, "*examples"],
        state: State,
        *,
        mask: Bool[Array, "..."] | None = None,
    ) -> State:
        """Adds a batch, or with ``axis_name`` usually one example.

        Arguments:
            guesses: integers, the classes; or logits, floating numbers with an axis
                more, at the end, for the classes.
            labels: the true classes.
            state: the state.
            mask: which examples count: booleans of the shape of ``labels``, or of its
                first axes.

        Returns:
            The new state.
        """
        check_state(self, state)
        n = self.num_classes
        check_real(self, guesses, "array of guesses")
        is_logits = jnp.issubdtype(guesses.dtype, jnp.floating)
        if is_logits and guesses.shape[-1:] != (n,):
            fail(
                self,
                "the logits have not one entry for each class",
                expected=f"{n} along the last axis; or integers, the classes",
                got=f"{tuple(guesses.shape)}, {guesses.dtype}",
            )
        check_labels(self, labels, guesses.shape[:-1] if is_logits else guesses.shape)
        mask = read_mask(self, mask, labels.shape)
        if is_logits:
            mask = mask & ~jnp.any(jnp.isnan(guesses), -1)
            guesses = jnp.argmax(guesses, -1)
        for classes in (guesses, labels):
            mask = mask & (classes >= 0) & (classes < n)
        cells = labels.astype(jnp.int32) * n + guesses.astype(jnp.int32)
        cells = jnp.where(mask, cells, n * n)  # which is dropped
        new = jnp.zeros(n * n, jnp.uint32).at[cells].add(1, mode="drop")
        count = add_count(state.get(self.index), over_axes(self, new.reshape(n, n)))
        return state.set(self.index, count)

    def compute(
        self, state: State, *, normalize: Literal["true", "pred", "all"] | None = None
    ) -> Shaped[Array, "classes classes"]:
        """The matrix; rows are labels, and columns guesses.

        Arguments:
            state: the state.
            normalize: None for counts, as uint32 (uint64 in 64-bit mode), in which the
                largest number stands for any larger one; ``"true"`` for fractions of
                each row, ``"pred"`` of each column, ``"all"`` of all. Where there is
                nothing, they are 0.
        """
        count = state.get(self.index)
        if normalize is None:
            if default_dtype(None) == jnp.float64:  # in 64-bit mode
                wide = count.astype(jnp.uint64)
                return wide[0] * 2**32 + wide[1]
            return jnp.where(count[0] > 0, jnp.uint32(2**32 - 1), count[1])
        ok = normalize in _SUMMED
        words = 'None, "true", "pred" or "all"'
        require(ok, "ConfusionMatrix.compute", "normalize", words, normalize)
        value = count_value(count)
        axes: Any = _SUMMED[normalize]
        total = jnp.sum(value, axes, keepdims=True)
        return value / jnp.where(total == 0, 1, total)

    def table(self, state: State, names: Sequence[Any] | None = None) -> str:
        """The counts as text: a row for each label, a column for each guess.

        Arguments:
            state: the state; not under ``jit``.
            names: a name for each class; by default its number.
        """
        n = self.num_classes
        titles = [str(x) for x in (range(n) if names is None else names)]
        ok = len(titles) == n
        require(ok, "ConfusionMatrix.table", "names", f"{n} names", names)
        high, low = np.asarray(state.get(self.index)).astype(object)
        cells = [[str(x) for x in row] for row in high * 2**32 + low]
        columns = [titles, *(map(list, zip(*cells, strict=True)))]
        heads = ["", *titles]
        columns = [[a, *b] for a, b in zip(heads, columns, strict=True)]
        widths = [max(map(len, column)) for column in columns]
        lines = []
        for row in zip(*columns, strict=True):
            first, *rest = (x.rjust(w) for x, w in zip(row, widths, strict=True))
            lines.append("  ".join([row[0].ljust(len(first)), *rest]))
        return "\n".join(lines)
