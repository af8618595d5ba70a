"""What all metrics share."""

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._module.fields import field
from .._module.module import Module
from .._state.index import StateIndex
from .._state.state import State
from ..nn._axes import count_examples, names_of
from ..nn._batch_moments import sum_over
from ..nn._checks import check_array, check_state, fail
from ..typing import Array


class Metric(Module):
    """Base class of metrics: what they have counted is a slot of the state.

    ``state = metric.update(…, state)`` adds a batch, ``metric.compute(state)`` gives
    the value over all that was added, and ``metric.reset(state)`` starts anew. Counts
    are added up over examples, batches and devices, and by ``vernal.nn.merge_states``
    over workers; so the value is that of all the data at once, also where batches have
    different sizes.

    Without ``axis_name`` one call takes a whole batch. With it a call takes one
    example, under ``jax.vmap`` with that ``axis_name``, as :class:`vernal.nn.BatchNorm`
    does; or a batch for each device under ``jax.shard_map``.

    >>> import vernal as vn, jax.numpy as jnp
    >>> metrics = {"loss": vn.metrics.Average(), "accuracy": vn.metrics.Accuracy()}
    >>> metrics, state = vn.nn.split_state(metrics)
    >>> state = metrics["loss"].update(jnp.array([1.0, 2.0]), state)
    >>> state = metrics["loss"].update(jnp.array([6.0]), state)
    >>> print(metrics["loss"].compute(state))
    3.0
    >>> for metric in metrics.values():
    ...     state = metric.reset(state)
    """

    index: StateIndex[Any]
    axis_name: Hashable = field(static=True)

    def reset(self, state: State) -> State:
        """Forgets what was counted; returns the new state."""
        check_state(self, state)
        zeros = jax.tree.map(jnp.zeros_like, state.get(self.index))
        return state.set(self.index, zeros)


def over_axes(metric: Metric, x: Array) -> Array:
    """Adds up over the named axes what is counted; no gradient is kept."""
    names = names_of(metric.axis_name)
    if names:
        count_examples(metric)  # refuses names that are not in scope
        x = sum_over(x, names)
    return lax.stop_gradient(x)


def read_mask(metric: Metric, mask: Any, shape: tuple[int, ...]) -> Array:
    """Where entries count: booleans of the first axes of ``shape``, or None for all."""
    if mask is None:
        return jnp.ones(shape, bool)
    mask = jnp.asarray(mask) if isinstance(mask, bool) else mask
    check_array(metric, mask, "mask")
    if mask.dtype != bool or mask.shape != shape[: mask.ndim]:
        fail(
            metric,
            "the mask does not fit",
            expected=f"booleans, of the shape {shape} or of its first axes",
            got=f"{tuple(mask.shape)}, {mask.dtype}",
            fix="numbers: mask != 0" if mask.dtype != bool else "",
        )
    mask = jnp.asarray(mask).reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
    return jnp.broadcast_to(mask, shape)


def check_labels(
    metric: Metric, labels: Any, shape: tuple[int, ...], booleans: bool = False
) -> None:
    """Refuses what is not one integer for each example."""
    check_array(metric, labels, "array of labels")
    is_label = jnp.issubdtype(labels.dtype, jnp.integer)
    is_label = is_label or (booleans and labels.dtype == bool)
    if not is_label or labels.shape != shape:
        kind = "integers or booleans" if booleans else "integers"
        fail(
            metric,
            "the labels do not fit",
            expected=f"{kind} of shape {shape}",
            got=f"{tuple(labels.shape)}, {labels.dtype}",
        )


def check_real(metric: Metric, x: Any, what: str, ndim: int = 0) -> None:
    """Refuses what is not an array of real numbers, with ``ndim`` axes at least."""
    check_array(metric, x, what)
    is_real = jnp.issubdtype(x.dtype, jnp.floating)
    is_real = is_real or jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool
    if not is_real or x.ndim < ndim:
        fail(
            metric,
            f"the {what} is not of real numbers"
            if not is_real
            else f"the {what} has no axis for the classes",
            expected="real numbers" + (", with the classes along the last axis" * ndim),
            got=f"{tuple(x.shape)}, {x.dtype}",
        )
