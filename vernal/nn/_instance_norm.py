"""Instance normalization."""

from collections.abc import Hashable
from typing import Any, overload

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from ..typing import AxisName, DTypeLike, Key
from ._axes import count_examples, read_axis_name
from ._batch_axis import check_sizes, read_mask
from ._batch_moments import Moments, sum_over
from ._checks import (
    check_floating,
    check_shape,
    check_state,
    fail,
    is_number,
    require,
)
from ._init import default_dtype
from ._merging import running_slots
from ._numerics import axis_names, compute_dtype, moments, normalize
from ._running import Pair, select, update
from ._stateful import StatefulLayer

_UNSET: Any = object()


class InstanceNorm(StatefulLayer):
    r"""Normalizes each channel of an example to mean 0 and variance 1.

    $$y = \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \gamma + \beta$$

    where mean and (biased) variance of each channel are taken over the spatial axes of
    the one example ``(input_size, *spatial)``. This is :class:`GroupNorm` with as many
    groups as channels, and a mask. Statistics are taken in at least float32, and the
    output has the dtype of the input.

    Without running averages (the default) training and inference are the same, and the
    layer is called as ``y = norm(x)``. With ``running=True`` it is called as
    ``y, state = norm(x, state)``: training keeps running averages of the mean over the
    batch of the examples' statistics, and inference normalizes by them. They are
    weighted as in :class:`BatchNorm`, and carry no gradient.

    With ``mask=`` only what counts enters the statistics; the output is the normalized
    input everywhere. Where fewer than two values count, the running averages, or else 0
    and 1, are used, and the example has no part in the averages; otherwise it has the
    weight of its number of values.

    Reference: Ulyanov, Vedaldi and Lempitsky, *Instance Normalization: The Missing
    Ingredient for Fast Stylization*, 2016, arXiv:1607.08022. PyTorch's layer takes a
    batch, has no affine parameters unless told to, and averages unbiased variances;
    Flax's has the channels last, ``epsilon=1e-6``, and no running averages.

    Arguments:
        input_size: number of channels.
        eps: added to the variance, in its units; at least 0.
        channelwise_affine: whether to learn ``weight`` and ``bias`` per channel.
        dtype: of ``weight`` and ``bias``; by default float32 (float64 in 64-bit
            mode). Running averages are kept in at least float32.
        running: whether to keep running averages, and to use them in inference.
        axis_name: with ``running``, the name of the batch axis, or several names.
        momentum: weight of the past in the running averages, in [0, 1].
        inference: use the running averages and leave them as they are. See
            :func:`inference_mode`.

    Attributes:
        weight, bias: parameters ``(input_size,)``; None without affine.
        batch_counter, batch_state_index: with ``running``, the slots of the number of
            training steps, and of the running mean and variance.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: wrong number of channels, an integer input, a mask that does not
            fit, no state with ``running``, or fewer than two values per channel.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax.numpy as jnp
    >>> norm = vn.nn.InstanceNorm(3)
    >>> norm(jnp.arange(60.0).reshape(3, 4, 5)).shape
    (3, 4, 5)
    """

    weight: Float[Array, " input_size"] | None
    bias: Float[Array, " input_size"] | None
    batch_counter: StateIndex[Int[Array, ""]] | None
    batch_state_index: StateIndex[Pair] | None
    input_size: int = field(static=True)
    eps: float = field(static=True)
    channelwise_affine: bool = field(static=True)
    running: bool = field(static=True)
    axis_name: Hashable = field(static=True)
    momentum: float = field(static=True)
    inference: bool = field(static=True, stored=True)

    def __init__(
        self,
        input_size: int,
        eps: float = 1e-5,
        channelwise_affine: bool = True,
        dtype: DTypeLike | None = None,
        *,
        running: bool = False,
        axis_name: AxisName | None = None,
        momentum: float = 0.99,
        inference: bool = False,
    ) -> None:
        name = "InstanceNorm"
        check_sizes(name, input_size, eps, channelwise_affine)
        is_bool = isinstance(running, bool)
        require(is_bool, name, "running", "True or False", running)
        self.axis_name = read_axis_name(name, axis_name)
        expected = "a name, or several, with running=True; else None"
        ok = running == (axis_name is not None)
        require(ok, name, "axis_name", expected, axis_name)
        ok = is_number(momentum, maximum=1)
        require(ok, name, "momentum", "a number from 0 to 1", momentum)
        dtype = default_dtype(dtype)
        is_real = jnp.issubdtype(dtype, jnp.floating)
        require(is_real, name, "dtype", "a real floating dtype", dtype)
        self.weight = jnp.ones(input_size, dtype) if channelwise_affine else None
        self.bias = jnp.zeros(input_size, dtype) if channelwise_affine else None
        stored = compute_dtype(dtype)
        identity = (jnp.zeros(input_size, stored), jnp.ones(input_size, stored))
        slots = running_slots(
            identity, float(momentum), "batch_counter", has_spread=False
        )
        self.batch_counter, self.batch_state_index = slots if running else (None, None)
        self.input_size = input_size
        self.eps = float(eps)
        self.channelwise_affine = channelwise_affine
        self.running = running
        self.momentum = float(momentum)
        self.inference = inference

    def is_stateful(self) -> bool:
        """Whether it keeps running averages."""
        return self.running

    @overload
    def __call__(
        self,
        x: Float[Array, "input_size *spatial"],
        *,
        key: Key | None = None,
        inference: bool | None = None,
        mask: Bool[Array, " *values"] | bool | None = None,
    ) -> Float[Array, "input_size *spatial"]: ...
    @overload
    def __call__(
        self,
        x: Float[Array, "input_size *spatial"],
        state: State,
        *,
        key: Key | None = None,
        inference: bool | None = None,
        mask: Bool[Array, " *values"] | bool | None = None,
    ) -> tuple[Float[Array, "input_size *spatial"], State]: ...
    def __call__(
        self,
        x: Float[Array, "input_size *spatial"],
        state: State = _UNSET,
        *,
        key: Key | None = None,
        inference: bool | None = None,
        mask: Bool[Array, " *values"] | bool | None = None,
    ) -> (
        Float[Array, "input_size *spatial"]
        | tuple[Float[Array, "input_size *spatial"], State]
    ):
        """Normalizes one example.

        Arguments:
            x: one example, ``(input_size, *spatial)``.
            state: the state of the model, with ``running``; without, it is returned as
                it is, so that this layer can stand in the place of :class:`BatchNorm`.
            key: not used.
            inference: overrides the field of that name, if not None.
            mask: which values count in the statistics: booleans that broadcast to
                ``spatial``.

        Returns:
            An array of the same shape and dtype; with a state, both.
        """
        check_shape(self, x, "input_size ...", input_size=self.input_size)
        check_floating(self, x)
        if mask is not None:
            mask = read_mask(self, mask, x.shape[1:], whole=False)
        if state is not _UNSET or self.running:
            check_state(self, None if state is _UNSET else state)
        running = None
        if self.batch_state_index is not None:
            running = state.get(self.batch_state_index)
        inference = self.inference if inference is None else inference
        if inference and running is not None:
            return self._normalize(x, running), state
        used, batch = self._statistics(x, mask, running)
        y = self._normalize(x, used)
        if self.batch_counter is not None and self.batch_state_index is not None:
            assert running is not None
            count, batch = state.get(self.batch_counter), self._over_batch(batch)
            count, kept = update(count, running, batch, self.momentum, unbiased=False)
            state = state.set(self.batch_counter, count)
            state = state.set(self.batch_state_index, kept)
        return y if state is _UNSET else (y, state)

    def _normalize(self, x: Array, used: Pair) -> Array:
        rows = (self.input_size, 1)
        affine = [a if a is None else a.reshape(rows) for a in (self.weight, self.bias)]
        mean, variance = (a.reshape(rows) for a in used)
        flat = x.reshape(self.input_size, -1)
        return normalize(flat, mean, variance, self.eps, *affine).reshape(x.shape)

    def _statistics(
        self, x: Array, mask: Array | None, running: Pair | None
    ) -> tuple[Pair, Moments]:
        """What to normalize by, and the statistics of the example."""
        size = x.size // self.input_size
        if size < 2:
            fail(
                self,
                "the example has fewer than two values per channel",
                expected="(input_size, *spatial) with at least two values in spatial",
                got=f"{tuple(x.shape)}, {x.dtype}",
            )
        flat = x.reshape(self.input_size, -1)
        if mask is None:
            mean, variance = (a[:, 0] for a in moments(flat, (1,)))
            return (mean, variance), Moments(mean, variance, float(size))
        mask = mask.reshape(1, -1)
        mean, variance = (a[:, 0] for a in moments(flat, (1,), mask))
        number = jnp.broadcast_to(mask.sum(1, mean.dtype), mean.shape)
        batch = Moments(mean, variance, number)
        identity = (jnp.zeros_like(mean), jnp.ones_like(variance))
        return select(batch, batch[:2], running or identity), batch

    def _over_batch(self, own: Moments) -> Moments:
        """The mean over the batch, in one collective."""
        examples = count_examples(self)
        names = axis_names(self.axis_name)
        mean, variance, number = own
        if isinstance(number, float):
            mean, variance = sum_over(jnp.stack([mean, variance]), names) / examples
            return Moments(mean, variance, number)
        number = jnp.where(number >= 2, number, 0)
        sums = jnp.stack([number * mean, number * variance, number])
        mean, variance, number = sum_over(sums, names)
        total = jnp.maximum(number, 1)
        return Moments(mean / total, variance / total, number)
