"""A scale and shift per channel that starts by normalizing the first batch."""

import functools
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from ..typing import AxisName, DTypeLike, Key
from ._axes import count_examples, require_axis_name
from ._batch_moments import batch_moments
from ._checks import (
    check_floating,
    check_shape,
    check_state,
    is_number,
    is_size,
    require,
)
from ._init import default_dtype
from ._numerics import axis_names, compute_dtype
from ._stateful import StatefulLayer


class Start(NamedTuple):
    """What the first batch fixes: the mean and the standard deviation of each channel.

    They are 0 and 1 as long as ``is_known`` is False.
    """

    is_known: Bool[Array, ""]
    mean: Float[Array, " input_size"]
    deviation: Float[Array, " input_size"]


class ActNorm(StatefulLayer):
    r"""Scales and shifts each channel, so that the first batch comes out normalized.

    $$y = \frac{x - \mu}{\sigma} \, e^s + b, \qquad
    \log \left| \det \frac{\partial y}{\partial x} \right|
    = \mathrm{positions} \cdot \sum_c (s_c - \log \sigma_c)$$

    The first training batch fixes the mean $\mu$ and the standard deviation $\sigma$ of
    each channel, over all examples on the named axes and over the spatial axes; they
    live in the state. From then on the layer is an ordinary affine map, invertible and
    independent of the batch, whose parameters $s$ and $b$ start at 0. In inference
    nothing is fixed; an untouched layer is the identity.

    A first batch with values that are not finite, or with fewer than two per channel,
    fixes nothing: the next one does. Gradients take $\mu$ and $\sigma$ as constants.

    The layer takes one example ``(input_size, *spatial)`` and is called under
    ``jax.vmap(..., axis_name="batch", in_axes=(0, None), out_axes=(0, None))``. It
    computes in at least float32, and the output has the dtype of the input.

    Reference: Kingma and Dhariwal, *Glow: Generative Flow with Invertible 1x1
    Convolutions*, 2018, arXiv:1807.03039. There the parameters themselves are set by
    the first batch; here they stay apart from it, so that they can be drawn to 0 by
    weight decay, and no step differs from another. PyTorch and Flax have no such layer.

    Arguments:
        input_size: number of channels.
        axis_name: the name of the batch axis, or several names.
        eps: a channel whose standard deviation in the first batch is at most this is
            only shifted, as its scale is not known; at least 0.
        inference: fix nothing. See :func:`inference_mode`.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).

    Attributes:
        log_scale, bias: parameters ``(input_size,)``, initially 0.
        start_index: the slot of ``is_known``, ``mean`` and ``deviation``.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: wrong number of channels, or not real floating-point.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax.numpy as jnp
    >>> norm, state = vn.nn.make_with_state(vn.nn.ActNorm)(2, axis_name="batch")
    >>> xs = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    >>> ys, state = vn.nn.batched(norm)(xs, state)
    >>> ys.tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    >>> norm.inverse(ys[0], state).tolist()
    [1.0, 10.0]
    """

    log_scale: Float[Array, " input_size"]
    bias: Float[Array, " input_size"]
    start_index: StateIndex[Start]
    input_size: int = field(static=True)
    axis_name: Hashable = field(static=True)
    eps: float = field(static=True)
    inference: bool = field(static=True, stored=True)

    def __init__(
        self,
        input_size: int,
        axis_name: AxisName,
        eps: float = 1e-6,
        inference: bool = False,
        dtype: DTypeLike | None = None,
    ) -> None:
        require(is_size(input_size), "ActNorm", "input_size", "an int ≥ 1", input_size)
        require(is_number(eps), "ActNorm", "eps", "a number ≥ 0", eps)
        dtype = default_dtype(dtype)
        is_real = jnp.issubdtype(dtype, jnp.floating)
        require(is_real, "ActNorm", "dtype", "a real floating dtype", dtype)
        self.log_scale = jnp.zeros(input_size, dtype)
        self.bias = jnp.zeros(input_size, dtype)
        stored = compute_dtype(dtype)
        zeros, ones = jnp.zeros(input_size, stored), jnp.ones(input_size, stored)
        self.start_index = StateIndex(
            Start(jnp.array(False), zeros, ones), merge=_merge_to_known
        )
        self.input_size = input_size
        self.axis_name = require_axis_name("ActNorm", axis_name)
        self.eps = float(eps)
        self.inference = inference

    def __call__(
        self,
        x: Float[Array, "input_size *spatial"],
        state: State,
        *,
        key: Key | None = None,
        inference: bool | None = None,
    ) -> tuple[Float[Array, "input_size *spatial"], State]:
        """Transforms one example; the first batch in training fixes the statistics.

        Arguments:
            x: one example, ``(input_size, *spatial)``.
            state: the state of the model.
            key: not used.
            inference: overrides the field of that name, if not None.

        Returns:
            An array of the same shape and dtype, and the new state.
        """
        (y, _), state = self.forward_and_log_det(x, state, inference=inference)
        return y, state

    def forward_and_log_det(
        self,
        x: Float[Array, "input_size *spatial"],
        state: State,
        *,
        inference: bool | None = None,
    ) -> tuple[tuple[Float[Array, "input_size *spatial"], Float[Array, ""]], State]:
        """As a call, and with the log-determinant of the Jacobian of one example.

        Arguments:
            x: one example, ``(input_size, *spatial)``.
            state: the state of the model.
            inference: overrides the field of that name, if not None.

        Returns:
            ``(y, log_det), state``; the log-determinant is at least float32.
        """
        self._check(x, state)
        start = state.get(self.start_index)
        if not (self.inference if inference is None else inference):
            start = self._started(x, start)
            state = state.set(self.start_index, start)
        scale, log_det = self._scale(x, start)
        centered = x.astype(scale.dtype) - _per_channel(start.mean, x)
        y = centered * scale + _per_channel(self.bias, x)
        return (y.astype(x.dtype), log_det), state

    def inverse(
        self, y: Float[Array, "input_size *spatial"], state: State
    ) -> Float[Array, "input_size *spatial"]:
        """The example that is transformed into this one.

        Arguments:
            y: one transformed example.
            state: the state of the model, after the call.
        """
        return self.inverse_and_log_det(y, state)[0]

    def inverse_and_log_det(
        self, y: Float[Array, "input_size *spatial"], state: State
    ) -> tuple[Float[Array, "input_size *spatial"], Float[Array, ""]]:
        """As :meth:`inverse`, and with the log-determinant of that.

        Arguments:
            y: one transformed example.
            state: the state of the model, after the call.
        """
        self._check(y, state)
        start = state.get(self.start_index)
        scale, log_det = self._scale(y, start)
        shifted = y.astype(scale.dtype) - _per_channel(self.bias, y)
        x = shifted / scale + _per_channel(start.mean, y)
        return x.astype(y.dtype), -log_det

    def _check(self, x: Array, state: State) -> None:
        check_shape(self, x, "input_size ...", input_size=self.input_size)
        check_floating(self, x)
        check_state(self, state)

    def _scale(self, x: Array, start: Start) -> tuple[Array, Array]:
        """The factor of each channel, in the rank of ``x``; and the log-determinant."""
        dtype = compute_dtype(x.dtype)
        deviation, log_scale = start.deviation.astype(dtype), self.log_scale
        log_scale = log_scale.astype(dtype)
        positions = x.size // self.input_size
        log_det = positions * jnp.sum(log_scale - jnp.log(deviation))
        return _per_channel(jnp.exp(log_scale) / deviation, x), log_det

    def _started(self, x: Array, start: Start) -> Start:
        """What was fixed before; or what this batch fixes, if it is the first."""
        names = axis_names(self.axis_name)
        if x.size // self.input_size * count_examples(self) < 2:
            return start
        mean, variance, _ = batch_moments(lax.stop_gradient(x), names, start.mean)
        mean, variance = (a.astype(start.mean.dtype) for a in (mean, variance))
        deviation = jnp.sqrt(variance)
        deviation = jnp.where(deviation > self.eps, deviation, 1)
        is_fine = jnp.all(jnp.isfinite(mean) & jnp.isfinite(variance))
        first = Start(is_fine, mean, deviation)
        takes = is_fine & ~start.is_known
        return Start(
            *(jnp.where(takes, a, b) for a, b in zip(first, start, strict=True))
        )


def _merge_to_known(values: Sequence[Start], _: Any) -> Start:
    """The first that is known: parameters were trained on top of one of them."""

    def first(old: Start, new: Start) -> Start:
        return Start(
            old.is_known | new.is_known,
            *(
                jnp.where(old.is_known, a, b)
                for a, b in zip(old[1:], new[1:], strict=True)
            ),
        )

    return functools.reduce(first, values)


def _per_channel(a: Array, x: Array) -> Array:
    dtype = compute_dtype(x.dtype)
    return a.astype(dtype).reshape(-1, *[1] * (x.ndim - 1))
