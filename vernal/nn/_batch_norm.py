"""Batch normalization."""

from collections.abc import Hashable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from ..typing import AxisName, DTypeLike, Key
from ._checks import (
    check_floating,
    check_shape,
    check_state,
    count_examples,
    fail,
    is_number,
    is_size,
    require,
    require_axis_name,
)
from ._init import default_dtype
from ._numerics import (
    axis_names,
    batch_moments,
    blend,
    compute_dtype,
    normalize,
    running_rate,
)
from ._stateful import StatefulLayer

_Moments = tuple[Float[Array, " input_size"], Float[Array, " input_size"]]


class BatchNorm(StatefulLayer):
    r"""Normalizes each channel to the mean and variance of the batch.

    $$y = \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \gamma + \beta$$

    where mean and (biased) variance of each channel are taken over all examples on the
    named axes, and over the spatial axes of each. In inference they are replaced by
    running averages from training; before any training step these are 0 and 1.

    The layer takes one example ``(input_size, *spatial)``, and is called under
    ``jax.vmap(..., axis_name="batch", in_axes=(0, None), out_axes=(0, None))``: the
    data is batched, the state is not. Statistics are taken in at least float32, and
    the output has the dtype of the input. No gradient flows through what is stored.

    With ``mode="batch"`` (the default, and what other libraries do) training
    normalizes with the statistics of the batch. With ``mode="ema"`` it uses the
    running averages including this batch.

    The running averages are weighted means over past steps with weights
    ``momentum**age``, normalized to 1 at every step. (In mode "ema" the first step
    has in addition the weight of all that might have been before it.) They differ
    from PyTorch's and Flax's, which start as if 0 and 1 had been seen for ever, and
    approach these with time. PyTorch's ``momentum`` is our ``1 - momentum``, and it
    stores the unbiased variance.

    Reference: Ioffe and Szegedy, *Batch Normalization: Accelerating Deep Network
    Training by Reducing Internal Covariate Shift*, 2015, arXiv:1502.03167.

    Arguments:
        input_size: number of channels.
        axis_name: the name of the batch axis, or several names: all of them are
            averaged over, such as a ``vmap`` axis and a device axis.
        eps: added to the variance, in its units; at least 0.
        channelwise_affine: whether to learn ``weight`` and ``bias`` per channel.
        momentum: weight of the past in the running averages, in [0, 1]. 0 keeps only
            the last batch; 1 weighs all steps equally (in mode "ema" it keeps the
            first).
        inference: use the running averages and leave them as they are. See
            :func:`inference_mode`.
        dtype: of ``weight`` and ``bias``; by default float32 (float64 in 64-bit
            mode). Running averages are kept in at least float32.
        mode: ``"batch"`` or ``"ema"``; ``"legacy"`` stands for the default.

    Attributes:
        weight, bias: parameters ``(input_size,)``; None without affine.
        batch_counter, batch_state_index: in mode "batch", the slots of the number of
            training steps, and of the running mean and variance.
        ema_first_time_index, ema_state_index: in mode "ema", the slots of whether
            there was no step yet, and of the running mean and variance.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: wrong number of channels, an integer input, or fewer than two
            values per channel in the whole batch.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(3, axis_name="batch")
    >>> call = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    >>> y, state = call(jnp.arange(12.0).reshape(4, 3), state)
    >>> y.shape
    (4, 3)
    >>> mean, variance = state.get(norm.batch_state_index)
    >>> mean
    Array([4.5, 5.5, 6.5], dtype=float32)
    """

    weight: Float[Array, " input_size"] | None
    bias: Float[Array, " input_size"] | None
    ema_first_time_index: StateIndex[Bool[Array, ""]] | None
    ema_state_index: StateIndex[_Moments] | None
    batch_counter: StateIndex[Int[Array, ""]] | None
    batch_state_index: StateIndex[_Moments] | None
    axis_name: Hashable = field(static=True)
    inference: bool = field(static=True, stored=True)
    input_size: int = field(static=True)
    eps: float = field(static=True)
    channelwise_affine: bool = field(static=True)
    momentum: float = field(static=True)
    mode: Literal["ema", "batch"] = field(static=True)

    def __init__(
        self,
        input_size: int,
        axis_name: AxisName,
        eps: float = 1e-5,
        channelwise_affine: bool = True,
        momentum: float = 0.99,
        inference: bool = False,
        dtype: DTypeLike | None = None,
        mode: Literal["ema", "batch", "legacy"] = "legacy",
    ) -> None:
        _check_arguments(input_size, axis_name, eps, channelwise_affine, momentum, mode)
        dtype = default_dtype(dtype)
        is_real = jnp.issubdtype(dtype, jnp.floating)
        require(is_real, "BatchNorm", "dtype", "a real floating dtype", dtype)
        self.weight = jnp.ones(input_size, dtype) if channelwise_affine else None
        self.bias = jnp.zeros(input_size, dtype) if channelwise_affine else None
        stored = compute_dtype(dtype)
        identity = (jnp.zeros(input_size, stored), jnp.ones(input_size, stored))
        is_ema = mode == "ema"
        self.ema_first_time_index = StateIndex(jnp.array(True)) if is_ema else None
        self.ema_state_index = StateIndex(identity) if is_ema else None
        self.batch_counter = None if is_ema else StateIndex(jnp.array(0, jnp.int32))
        self.batch_state_index = None if is_ema else StateIndex(identity)
        self.axis_name = tuple(axis_name) if isinstance(axis_name, list) else axis_name
        self.inference = inference
        self.input_size = input_size
        self.eps = float(eps)
        self.channelwise_affine = channelwise_affine
        self.momentum = float(momentum)
        self.mode = "ema" if is_ema else "batch"

    def __call__(
        self,
        x: Float[Array, "input_size *spatial"],
        state: State,
        *,
        key: Key | None = None,
        inference: bool | None = None,
    ) -> tuple[Float[Array, "input_size *spatial"], State]:
        """Normalizes one example of the batch, and updates the running averages.

        Arguments:
            x: one example, ``(input_size, *spatial)``.
            state: the state of the model.
            key: not used.
            inference: overrides the field of that name, if not None.

        Returns:
            The normalized example and the new state.
        """
        check_shape(self, x, "input_size ...", input_size=self.input_size)
        check_floating(self, x)
        check_state(self, state)
        inference = self.inference if inference is None else inference
        step = self._ema if self.mode == "ema" else self._batch
        mean, variance, state = step(x, state, inference)

        def per_channel(a: Array) -> Array:
            return a.reshape(-1, *[1] * (x.ndim - 1))

        affine = [None if a is None else per_channel(a) for a in self._affine()]
        mean, variance = per_channel(mean), per_channel(variance)
        return normalize(x, mean, variance, self.eps, *affine), state

    def _affine(self) -> tuple[Array | None, Array | None]:
        return self.weight, self.bias

    def _batch(
        self, x: Array, state: State, inference: bool
    ) -> tuple[Array, Array, State]:
        assert self.batch_counter is not None and self.batch_state_index is not None
        running = state.get(self.batch_state_index)
        if inference:
            return *running, state
        count = state.get(self.batch_counter)
        now = self._moments(x, running[0])
        rate = running_rate(count + 1, self.momentum, running[0].dtype)
        _, kept = _average(running, now, rate)
        state = state.set(self.batch_counter, count + 1)
        return *now, state.set(self.batch_state_index, kept)

    def _ema(
        self, x: Array, state: State, inference: bool
    ) -> tuple[Array, Array, State]:
        assert self.ema_first_time_index is not None
        assert self.ema_state_index is not None
        running = state.get(self.ema_state_index)
        if inference:
            return *running, state
        is_first = state.get(self.ema_first_time_index)
        now = self._moments(x, running[0])
        rate = jnp.where(is_first, 1, 1 - self.momentum)
        averages, kept = _average(running, now, rate)
        state = state.set(self.ema_first_time_index, jnp.zeros_like(is_first))
        return *averages, state.set(self.ema_state_index, kept)

    def _moments(self, x: Array, guess: Array) -> tuple[Array, Array]:
        names = axis_names(self.axis_name)
        examples = count_examples(self, names)
        if x.size // self.input_size * examples < 2:
            fail(
                self,
                "the batch has fewer than two values per channel",
                expected="at least two values, over examples and spatial axes",
                got=f"{examples} example(s) of shape {tuple(x.shape)}",
                fix="use a larger batch, or `inference_mode`",
            )
        return batch_moments(x, names, guess)


def _average(old: _Moments, new: _Moments, rate: Array) -> tuple[_Moments, _Moments]:
    """The running averages with this batch, and what to store of them."""
    stored = old[0].dtype
    dtype = np.promote_types(stored, new[0].dtype)
    mean, variance = (
        blend(a.astype(dtype), b.astype(dtype), rate.astype(dtype))
        for a, b in zip(old, new, strict=True)
    )
    kept = (mean.astype(stored), variance.astype(stored))
    return (mean, variance), lax.stop_gradient(kept)


def _check_arguments(
    input_size: Any,
    axis_name: Any,
    eps: Any,
    channelwise_affine: Any,
    momentum: Any,
    mode: Any,
) -> None:
    def check(ok: bool, name: str, expected: str, got: Any) -> None:
        require(ok, "BatchNorm", name, expected, got)

    check(is_size(input_size), "input_size", "an int ≥ 1", input_size)
    require_axis_name("BatchNorm", axis_name)
    check(is_number(eps), "eps", "a number ≥ 0", eps)
    is_bool = isinstance(channelwise_affine, bool)
    check(is_bool, "channelwise_affine", "True or False", channelwise_affine)
    ok = is_number(momentum, maximum=1)
    check(ok, "momentum", "a number from 0 to 1", momentum)
    check(mode in ("batch", "ema", "legacy"), "mode", '"batch" or "ema"', mode)
