"""Normalization by the mean and variance of everything seen so far."""

import functools
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from ..typing import AxisName, DTypeLike, Key
from ._axes import count_examples, require_axis_name
from ._batch_moments import sum_over
from ._checks import (
    check_state,
    check_whole_shape,
    fail,
    is_number,
    read_shape,
    require,
)
from ._init import default_dtype
from ._numerics import axis_names, compute_dtype, normalize
from ._running import blend
from ._stateful import StatefulLayer

_LARGEST = int(np.iinfo(np.int32).max)


class Moments(NamedTuple):
    """How many examples were seen, their mean, and their (biased) variance."""

    examples: Int[Array, ""]
    mean: Float[Array, " *shape"]
    variance: Float[Array, " *shape"]


class RunningNorm(StatefulLayer):
    r"""Normalizes by the mean and variance of all examples since training began.

    $$y = \frac{x - \mu_n}{\sqrt{\sigma_n^2 + \epsilon}}$$

    This is the normalizer of observations, rewards and returns in reinforcement
    learning. Every example ever seen has the same weight, so after any sequence of
    uneven batches $\mu_n$ and $\sigma_n^2$ are those of all their examples at once. Two
    groups of $n$ and $m$ examples, with $\delta = \mu_m - \mu_n$, are merged by

    $$\mu = \mu_n + r \delta, \quad \sigma^2 = (1 - r) \sigma_n^2 + r \sigma_m^2
    + r (1 - r) \delta^2, \quad r = \frac{m}{n + m}$$

    The layer takes one example and is called under ``jax.vmap(..., axis_name="batch",
    in_axes=(0, None), out_axes=(0, None))``. In training the batch is counted first,
    and then normalized by what is known with it; in inference nothing is counted. As
    long as nothing was counted, $y = x$. Statistics are kept in at least float32, and
    are constants for gradients; the output has the dtype of the input.

    Instead of the usual sum of squares, the variance itself is stored: in float32 such
    a sum stops growing after some ten million examples, while their count goes on, so
    that the variance would fall to 0. The count stops at 2³¹ - 1. A batch whose moments
    are not finite is not counted.

    Reference: Chan, Golub and LeVeque, *Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances*, 1979, Stanford STAN-CS-79-773. PyTorch and Flax have no
    such layer: ``BatchNorm`` with a cumulative average weighs batches alike whatever
    their size, and misses the variance between them.

    Arguments:
        shape: of the input, each size at least 1; an int stands for ``(shape,)``, and
            ``()`` is a single number, such as a reward.
        axis_name: the name of the batch axis, or several names, such as that of a
            ``vmap`` axis and that of a device axis.
        eps: added to the variance, in its units; at least 0.
        clip: the output is limited to ``[-clip, clip]``; None does not limit it.
        inference: use the statistics and leave them as they are. See
            :func:`inference_mode`.
        dtype: of the statistics, at least float32; by default float32 (float64 in
            64-bit mode).

    Attributes:
        moments_index: the slot of ``examples``, ``mean`` and ``variance``.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: the input has another shape or is not real floating-point; the mask
            is not a boolean.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax.numpy as jnp
    >>> norm, state = vn.nn.make_with_state(vn.nn.RunningNorm)(2, axis_name="batch")
    >>> for observations in (jnp.ones((3, 2)), jnp.zeros((1, 2))):
    ...     y, state = vn.nn.batched(norm)(observations, state)
    >>> state.get(norm.moments_index).mean
    Array([0.75, 0.75], dtype=float32)
    """

    moments_index: StateIndex[Moments]
    shape: tuple[int, ...] = field(static=True)
    axis_name: Hashable = field(static=True)
    eps: float = field(static=True)
    clip: float | None = field(static=True)
    inference: bool = field(static=True, stored=True)

    def __init__(
        self,
        shape: int | Sequence[int],
        axis_name: AxisName,
        eps: float = 1e-8,
        clip: float | None = None,
        inference: bool = False,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.shape = read_shape("RunningNorm", shape)
        require(is_number(eps), "RunningNorm", "eps", "a number ≥ 0", eps)
        ok = clip is None or (is_number(clip) and clip > 0)
        require(ok, "RunningNorm", "clip", "a number > 0, or None", clip)
        dtype = default_dtype(dtype)
        is_real = jnp.issubdtype(dtype, jnp.floating)
        require(is_real, "RunningNorm", "dtype", "a real floating dtype", dtype)
        stored = compute_dtype(dtype)
        zeros, ones = jnp.zeros(self.shape, stored), jnp.ones(self.shape, stored)
        nothing = Moments(jnp.array(0, jnp.int32), zeros, ones)
        self.moments_index = StateIndex(nothing, merge=_merge_all)
        self.axis_name = require_axis_name("RunningNorm", axis_name)
        self.eps = float(eps)
        self.clip = None if clip is None else float(clip)
        self.inference = inference

    def __call__(
        self,
        x: Float[Array, " *shape"],
        state: State,
        *,
        mask: Bool[Array, ""] | None = None,
        key: Key | None = None,
        inference: bool | None = None,
    ) -> tuple[Float[Array, " *shape"], State]:
        """Counts one example of the batch, and normalizes it.

        Arguments:
            x: one example, of the shape given at construction.
            state: the state of the model.
            mask: False where this example is filling and does not count; it may hold
                anything then. None counts all.
            key: not used.
            inference: overrides the field of that name, if not None.

        Returns:
            The normalized example and the new state.
        """
        check_whole_shape(self, x, self.shape)
        check_state(self, state)
        _check_mask(self, mask)
        known = state.get(self.moments_index)
        inference = self.inference if inference is None else inference
        if not inference:
            known = merge_moments(known, self._moments(x, mask, known.mean.dtype))
            state = state.set(self.moments_index, known)
        y = normalize(x, known.mean, known.variance, self.eps, None, None)
        y = jnp.where(known.examples == 0, x, y)
        return (y if self.clip is None else jnp.clip(y, -self.clip, self.clip)), state

    def denormalize(
        self, y: Float[Array, " *shape"], state: State
    ) -> Float[Array, " *shape"]:
        """Undoes the normalization, apart from the clipping.

        Arguments:
            y: one normalized example.
            state: the state of the model.

        Returns:
            The example in its own units.
        """
        check_whole_shape(self, y, self.shape)
        check_state(self, state)
        known = state.get(self.moments_index)
        dtype = compute_dtype(y.dtype)
        scale = jnp.sqrt(known.variance.astype(dtype) + self.eps)
        x = y.astype(dtype) * scale + known.mean.astype(dtype)
        return jnp.where(known.examples == 0, y, x.astype(y.dtype))

    def _moments(self, x: Array, mask: Array | None, dtype: jnp.dtype) -> Moments:
        """The moments of the batch, in two passes, which lose nothing to a large mean.

        Two collectives; float counts are exact up to 2²⁴ examples in one batch.
        """
        names = axis_names(self.axis_name)
        count = jnp.asarray(float(count_examples(self)), dtype)
        x = lax.stop_gradient(x).astype(dtype)
        if mask is not None:
            x = jnp.where(mask, x, 0)
            count = sum_over(jnp.asarray(mask).astype(dtype), names)
        divisor = jnp.maximum(count, 1)
        rough = sum_over(x, names) / divisor
        centered = x - rough if mask is None else jnp.where(mask, x - rough, 0)
        sums = sum_over(jnp.stack([centered, jnp.square(centered)]), names) / divisor
        mean, variance = rough + sums[0], sums[1] - jnp.square(sums[0])
        return Moments(count.astype(jnp.int32), mean, jnp.maximum(variance, 0))


def merge_moments(old: Moments, new: Moments) -> Moments:
    """The moments of two groups of examples together, by Chan's formula.

    If those of the result are not finite, the old ones are returned. What both groups
    have in common would count twice: workers that are merged must start from nothing.
    """
    dtype = old.mean.dtype
    n, m = old.examples.astype(dtype), new.examples.astype(dtype)
    rate = m / jnp.maximum(n + m, 1)
    spread = rate * (1 - rate) * jnp.square(new.mean - old.mean)
    mean = blend(old.mean, new.mean, rate)
    variance = blend(old.variance, new.variance, rate) + spread
    examples = old.examples + jnp.minimum(new.examples, _LARGEST - old.examples)
    is_fine = jnp.all(jnp.isfinite(mean) & jnp.isfinite(variance))
    merged = Moments(examples, mean, variance)
    return Moments(
        *(jnp.where(is_fine, a, b) for a, b in zip(merged, old, strict=True))
    )


def _merge_all(moments: Sequence[Moments], _: Any) -> Moments:
    """The rule of ``merge_states``; in a stack each layer is merged by itself."""
    merge = merge_moments
    for _ in range(moments[0].examples.ndim):
        merge = jax.vmap(merge)
    return functools.reduce(merge, moments)


def _check_mask(layer: RunningNorm, mask: Any) -> None:
    if mask is None:
        return
    shape, dtype = jnp.shape(mask), jnp.result_type(mask)
    if shape != () or dtype != jnp.bool_:
        fail(
            layer,
            "the mask is not a single boolean",
            expected="a boolean of shape () for each example",
            got=f"{shape}, {dtype}",
            fix="map over the mask as over the examples",
        )
