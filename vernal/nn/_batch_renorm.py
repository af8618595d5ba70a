"""Batch renormalization."""

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._module.by_value import by_value
from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from ..typing import AxisName, DTypeLike, Key
from ._axes import read_axis_name
from ._batch_axis import (
    check_input,
    check_sizes,
    normalize_channels,
    statistics,
)
from ._batch_norm import BatchNorm, adopted_moments, cumulative_norm
from ._checks import is_number, require
from ._init import default_dtype
from ._merging import running_slots
from ._numerics import compute_dtype
from ._running import Pair, update
from ._stateful import RunningStatistics

Limit: TypeAlias = float | Callable[[Array], Any]


class BatchRenorm(RunningStatistics):
    r"""Normalizes each channel by the batch, corrected towards the running averages.

    $$y = \left(\frac{x - \mu_B}{\sigma_B} r + d\right) \gamma + \beta, \qquad
    r = \mathrm{clip}\left(\frac{\sigma_B}{\sigma}, \frac{1}{r_{max}}, r_{max}\right),
    \quad
    d = \mathrm{clip}\left(\frac{\mu_B - \mu}{\sigma}, -d_{max}, d_{max}\right)$$

    where $\mu_B$ and $\sigma_B^2 = \mathrm{Var}_B[x] + \epsilon$ are those of the batch
    as in :class:`BatchNorm`, and $\mu$ and $\sigma^2$ the running averages of before
    this batch. $r$ and $d$ are held fixed in the gradient. Within the limits this is
    ``(x - μ) / σ``, so that training sees what inference computes: what an example
    becomes depends little on the others, and small batches or batches of similar
    examples do less harm. With ``r_max=1, d_max=0`` it is :class:`BatchNorm`. At the
    first step there is nothing to be corrected by: r is 1 and d is 0.

    In inference it is :class:`BatchNorm`, and so are the running averages, the input,
    the way it is called, ``axis_name`` and ``mask``.

    Reference: Ioffe, *Batch Renormalization: Towards Reducing Minibatch Dependence in
    Batch-Normalized Models*, 2017, arXiv:1702.03275. The paper averages standard
    deviations where we average variances, and widens the limits as training goes on:
    from 1 and 0 (plain batch normalization) for the first 5,000 steps to ``r_max=3``
    after 40,000 and ``d_max=5`` after 25,000. Give functions of the step for that.

    Arguments:
        input_size: number of channels.
        axis_name: the name of the batch axis, or several names; None: the batch is the
            first axis of the input.
        eps: added to the variance, in its units; at least 0.
        channelwise_affine: whether to learn ``weight`` and ``bias`` per channel.
        momentum: weight of the past in the running averages, in [0, 1].
        inference: use the running averages and leave them as they are. See
            :func:`inference_mode`.
        dtype: of ``weight`` and ``bias``; by default float32 (float64 in 64-bit
            mode). Running averages are kept in at least float32.
        r_max: limit of r, at least 1; or a function of the number of steps so far,
            such as a schedule of optax.
        d_max: limit of d, at least 0; likewise.

    Attributes:
        weight, bias: parameters ``(input_size,)``; None without affine.
        batch_counter, batch_state_index: the slots of the number of training steps, and
            of the running mean and variance.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: wrong number of channels, an integer input, a mask that does not
            fit, or fewer than two values per channel in the whole batch.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> norm, state = vn.nn.make_with_state(vn.nn.BatchRenorm)(3, axis_name="batch")
    >>> ys, state = vn.nn.batched(norm)(jnp.arange(12.0).reshape(4, 3), state)
    >>> ys.shape
    (4, 3)
    """

    weight: Float[Array, " input_size"] | None
    bias: Float[Array, " input_size"] | None
    batch_counter: StateIndex[Int[Array, ""]]
    batch_state_index: StateIndex[Pair]
    axis_name: Hashable = field(static=True)
    inference: bool = field(static=True, stored=True)
    input_size: int = field(static=True)
    eps: float = field(static=True)
    channelwise_affine: bool = field(static=True)
    momentum: float = field(static=True)
    r_max: Limit = field(static=True, converter=by_value)
    d_max: Limit = field(static=True, converter=by_value)

    def __init__(
        self,
        input_size: int,
        axis_name: AxisName | None,
        eps: float = 1e-5,
        channelwise_affine: bool = True,
        momentum: float = 0.99,
        inference: bool = False,
        dtype: DTypeLike | None = None,
        *,
        r_max: Limit = 3.0,
        d_max: Limit = 5.0,
    ) -> None:
        check_sizes("BatchRenorm", input_size, eps, channelwise_affine)
        expected = "a number from 0 to 1"
        ok = is_number(momentum, maximum=1)
        require(ok, "BatchRenorm", "momentum", expected, momentum)
        ok = callable(r_max) or is_number(r_max, 1)
        require(ok, "BatchRenorm", "r_max", "a number ≥ 1, or a schedule", r_max)
        ok = callable(d_max) or is_number(d_max)
        require(ok, "BatchRenorm", "d_max", "a number ≥ 0, or a schedule", d_max)
        dtype = default_dtype(dtype)
        is_real = jnp.issubdtype(dtype, jnp.floating)
        require(is_real, "BatchRenorm", "dtype", "a real floating dtype", dtype)
        self.weight = jnp.ones(input_size, dtype) if channelwise_affine else None
        self.bias = jnp.zeros(input_size, dtype) if channelwise_affine else None
        stored = compute_dtype(dtype)
        identity = (jnp.zeros(input_size, stored), jnp.ones(input_size, stored))
        slots = running_slots(identity, float(momentum), "batch_counter")
        self.batch_counter, self.batch_state_index = slots
        self.axis_name = read_axis_name("BatchRenorm", axis_name)
        self.inference = inference
        self.input_size = input_size
        self.eps = float(eps)
        self.channelwise_affine = channelwise_affine
        self.momentum = float(momentum)
        self.r_max = r_max
        self.d_max = d_max

    def __call__(
        self,
        x: Float[Array, "input_size *spatial"],
        state: State,
        *,
        key: Key | None = None,
        inference: bool | None = None,
        mask: Bool[Array, " *values"] | bool | None = None,
    ) -> tuple[Float[Array, "input_size *spatial"], State]:
        """Normalizes one example of the batch, and updates the running averages.

        Arguments:
            x: one example, ``(input_size, *spatial)``; with ``axis_name=None`` the
                whole batch, ``(batch, input_size, *spatial)``.
            state: the state of the model.
            key: not used.
            inference: overrides the field of that name, if not None.
            mask: which values count in the statistics, as in :class:`BatchNorm`.

        Returns:
            The normalized example and the new state.
        """
        mask = check_input(self, x, state, mask)
        running = state.get(self.batch_state_index)
        weight, bias = self.weight, self.bias
        if self.inference if inference is None else inference:
            return normalize_channels(self, x, running, weight, bias), state
        steps = state.get(self.batch_counter)
        own, batch = statistics(self, x, running, mask)
        weight, bias = self._corrected(own, running, steps)
        y = normalize_channels(self, x, own, weight, bias)
        steps, kept = update(steps, running, batch, self.momentum, unbiased=False)
        state = state.set(self.batch_counter, steps)
        return y, state.set(self.batch_state_index, kept)

    def cumulative(self) -> BatchNorm:
        """A fresh :class:`BatchNorm` with ``momentum=None`` and the same parameters."""
        counter, index = self.batch_counter, self.batch_state_index
        return cumulative_norm(self, counter, index, unbiased=False)

    def adopted(
        self, state: State, other: BatchNorm, found: State, steps: int
    ) -> State:
        """The state with the statistics that it found, as of :class:`BatchNorm`."""
        slots = self.batch_counter, self.batch_state_index
        return adopted_moments(*slots, state, other, found, steps, self.momentum)

    def _corrected(self, own: Pair, running: Pair, steps: Array) -> tuple[Array, Array]:
        """``r γ`` and ``d γ + β``: weight and bias for what the batch normalizes."""
        (mean, variance), dtype = lax.stop_gradient(own), own[0].dtype
        before, scale = (
            jnp.where(steps == 0, a, lax.stop_gradient(b).astype(dtype))
            for a, b in zip((mean, variance), running, strict=True)
        )
        deviation = jnp.sqrt(scale + self.eps)
        r_max, d_max = (
            jnp.asarray(limit(steps) if callable(limit) else limit, dtype)
            for limit in (self.r_max, self.d_max)
        )
        r = jnp.clip(jnp.sqrt(variance + self.eps) / deviation, 1 / r_max, r_max)
        d = jnp.clip((mean - before) / deviation, -d_max, d_max)
        if self.weight is None or self.bias is None:
            return r, d
        weight = self.weight.astype(dtype)
        return r * weight, d * weight + self.bias.astype(dtype)
