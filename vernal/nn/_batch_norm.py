"""Batch normalization."""

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._module.fields import field
from .._module.instance import assemble
from .._state.index import StateIndex, changed_index
from .._state.state import State
from ..errors import StateError, report
from ..typing import AxisName, DTypeLike, Key
from ._axes import read_axis_name
from ._batch_axis import (
    check_input,
    check_sizes,
    normalize_channels,
    read_groups,
    statistics,
)
from ._batch_moments import Groups
from ._checks import is_number, require
from ._init import default_dtype
from ._merging import MergeMoments, merge_first_time, running_slots
from ._numerics import compute_dtype
from ._running import Pair, average, select, update, where_seen
from ._stateful import RunningStatistics

_Moments = tuple[Float[Array, " input_size"], Float[Array, " input_size"]]


class BatchNorm(RunningStatistics):
    r"""Normalizes each channel to the mean and variance of the batch.

    $$y = \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \gamma + \beta$$

    where mean and (biased) variance of each channel are taken over all examples on the
    named axes, and over the spatial axes of each. In inference they are replaced by
    running averages from training; before any training step these are 0 and 1.

    The layer takes one example ``(input_size, *spatial)``, and is called under
    ``jax.vmap(..., axis_name="batch", in_axes=(0, None), out_axes=(0, None))``: the
    data is batched, the state is not. With ``axis_name=None`` it takes a whole batch
    ``(batch, input_size, *spatial)`` instead. Statistics are taken in at least float32,
    and the output has the dtype of the input. No gradient flows through what is stored.

    With ``mode="batch"`` (the default, and what other libraries do) training
    normalizes with the statistics of the batch. With ``mode="ema"`` it uses the
    running averages including this batch.

    The running averages are weighted means over past steps with weights
    ``momentum**age``, normalized to 1 at every step. (In mode "ema" the first step
    has in addition the weight of all that might have been before it.) They differ
    from PyTorch's and Flax's, which start as if 0 and 1 had been seen for ever, and
    approach these with time. PyTorch's ``momentum`` is our ``1 - momentum``, and it
    stores the unbiased variance, as we do with ``unbiased=True``. With
    ``momentum=None`` they are the mean and variance of all values so far, each with
    the same weight, as if they were one batch; PyTorch then averages over batches.

    With ``mask=`` at the call, only what counts enters the statistics; numbers of
    values are summed over all examples and devices. The output is the normalized input
    everywhere, so that a value which does not count acts on its own output alone, and
    has no gradient if the loss leaves that out. (It must be finite for this: NaN times
    zero is NaN.) Where fewer than two values per channel count, the running averages
    are used in place of those of the batch, and the state stays as it is; only with
    ``momentum=None`` a single value is taken in.

    Reference: Ioffe and Szegedy, *Batch Normalization: Accelerating Deep Network
    Training by Reducing Internal Covariate Shift*, 2015, arXiv:1502.03167.

    Arguments:
        input_size: number of channels.
        axis_name: the name of the batch axis, or several names: all of them are
            averaged over, such as a ``vmap`` axis and a device axis. None: the batch
            is the first axis of the input.
        eps: added to the variance, in its units; at least 0.
        channelwise_affine: whether to learn ``weight`` and ``bias`` per channel.
        momentum: weight of the past in the running averages, in [0, 1]. 0 keeps only
            the last batch; 1 weighs all steps equally (in mode "ema" it keeps the
            first). None weighs all values equally, in mode "batch" only.
        inference: use the running averages and leave them as they are. See
            :func:`inference_mode`.
        dtype: of ``weight`` and ``bias``; by default float32 (float64 in 64-bit
            mode). Running averages are kept in at least float32.
        mode: ``"batch"`` or ``"ema"``; ``"legacy"`` stands for the default.
        unbiased: store the variance times ``n / (n - 1)`` for n values; what normalizes
            in training is the biased one. In mode "batch" only.
        axis_index_groups: lists of positions on the named axis (with several names, on
            the last), each of which is a batch of its own. The running averages are of
            the mean over groups, weighted by their numbers of values. As in
            ``jax.lax.psum``, but under ``vmap`` too. In mode "batch" only.

    Attributes:
        weight, bias: parameters ``(input_size,)``; None without affine.
        batch_counter, batch_state_index: in mode "batch", the slots of the number of
            training steps (with ``momentum=None``, of values per channel, as a float),
            and of the running mean and variance.
        ema_first_time_index, ema_state_index: in mode "ema", the slots of whether
            there was no step yet, and of the running mean and variance.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: wrong number of channels, an integer input, a mask that does not
            fit, or fewer than two values per channel in the whole batch.
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
    batch_counter: StateIndex[Int[Array, ""] | Float[Array, ""]] | None
    batch_state_index: StateIndex[_Moments] | None
    axis_name: Hashable = field(static=True)
    inference: bool = field(static=True, stored=True)
    input_size: int = field(static=True)
    eps: float = field(static=True)
    channelwise_affine: bool = field(static=True)
    momentum: float | None = field(static=True)
    mode: Literal["ema", "batch"] = field(static=True)
    unbiased: bool = field(static=True)
    axis_index_groups: Groups | None = field(static=True)

    def __init__(
        self,
        input_size: int,
        axis_name: AxisName | None,
        eps: float = 1e-5,
        channelwise_affine: bool = True,
        momentum: float | None = 0.99,
        inference: bool = False,
        dtype: DTypeLike | None = None,
        mode: Literal["ema", "batch", "legacy"] = "legacy",
        *,
        unbiased: bool = False,
        axis_index_groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        check_sizes("BatchNorm", input_size, eps, channelwise_affine)
        _check_averages(momentum, mode, unbiased)
        self.axis_name = read_axis_name("BatchNorm", axis_name)
        groups = read_groups("BatchNorm", axis_index_groups, axis_name)
        is_ema = mode == "ema"
        ok = not is_ema or groups is None
        require(ok, "BatchNorm", "axis_index_groups", 'None in mode "ema"', groups)
        dtype = default_dtype(dtype)
        is_real = jnp.issubdtype(dtype, jnp.floating)
        require(is_real, "BatchNorm", "dtype", "a real floating dtype", dtype)
        self.weight = jnp.ones(input_size, dtype) if channelwise_affine else None
        self.bias = jnp.zeros(input_size, dtype) if channelwise_affine else None
        stored = compute_dtype(dtype)
        identity = (jnp.zeros(input_size, stored), jnp.ones(input_size, stored))
        first = counter = slot = moments = None
        if is_ema:
            rule = MergeMoments("ema_first_time_index", momentum)
            first = StateIndex(jnp.array(True), merge=merge_first_time)
            moments = StateIndex(identity, merge=rule)
        else:
            counter, slot = running_slots(identity, momentum, "batch_counter")
        self.ema_first_time_index, self.ema_state_index = first, moments
        self.batch_counter, self.batch_state_index = counter, slot
        self.inference = inference
        self.input_size = input_size
        self.eps = float(eps)
        self.channelwise_affine = channelwise_affine
        self.momentum = None if momentum is None else float(momentum)
        self.mode = "ema" if is_ema else "batch"
        self.unbiased = unbiased
        self.axis_index_groups = groups

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
            mask: which values count in the statistics: a bool for the whole example,
                or booleans that broadcast to ``spatial``. Of a whole batch,
                ``(batch,)``, or ``(batch, *spatial)`` where each axis may be 1.

        Returns:
            The normalized example and the new state.
        """
        mask = check_input(self, x, state, mask)
        inference = self.inference if inference is None else inference
        step = self._ema if self.mode == "ema" else self._batch
        moments, state = step(x, state, mask, inference)
        return normalize_channels(self, x, moments, self.weight, self.bias), state

    def cumulative(self) -> "BatchNorm":
        """The same layer with ``momentum=None``, fresh statistics, and in training.

        Its running mean and variance will be those of all values that it sees. To
        replace a layer within a model, put the state back into the model before by
        :func:`join_state`, and take it out after by :func:`split_state`.

        Raises:
            StateError: the layer was split from its state.

        >>> import vernal as vn
        >>> norm = vn.nn.BatchNorm(3, axis_name="batch").cumulative()
        >>> norm.momentum is None
        True
        """
        is_ema = self.mode == "ema"
        count = self.ema_first_time_index if is_ema else self.batch_counter
        running = self.ema_state_index if is_ema else self.batch_state_index
        assert count is not None and running is not None
        return cumulative_norm(self, count, running, self.unbiased)

    def adopted(
        self, state: State, other: "BatchNorm", found: State, steps: int
    ) -> State:
        """The state with the statistics that a cumulative layer found.

        Arguments:
            state: the state of this layer.
            other: what :meth:`cumulative` returned; if it saw nothing, all stays.
            found: its state.
            steps: the number of batches that it saw.
        """
        if self.ema_first_time_index is None:
            assert self.batch_counter is not None and self.batch_state_index is not None
            slots = self.batch_counter, self.batch_state_index
            return adopted_moments(*slots, state, other, found, steps, self.momentum)
        number, moments = _found(other, found)
        assert self.ema_state_index is not None
        old = state.get(self.ema_state_index)
        state = state.set(self.ema_state_index, where_seen(number, moments, old))
        is_first = state.get(self.ema_first_time_index)
        return state.set(self.ema_first_time_index, is_first & (number == 0))

    def _batch(
        self, x: Array, state: State, mask: Array | None, inference: bool
    ) -> tuple[Pair, State]:
        assert self.batch_counter is not None and self.batch_state_index is not None
        running = state.get(self.batch_state_index)
        if inference:
            return running, state
        count = state.get(self.batch_counter)
        groups = self.axis_index_groups
        own, batch = statistics(self, x, running, mask, groups)
        count, kept = update(count, running, batch, self.momentum, self.unbiased)
        state = state.set(self.batch_counter, count)
        return own, state.set(self.batch_state_index, kept)

    def _ema(
        self, x: Array, state: State, mask: Array | None, inference: bool
    ) -> tuple[Pair, State]:
        assert self.ema_first_time_index is not None
        assert self.ema_state_index is not None and self.momentum is not None
        running = state.get(self.ema_state_index)
        if inference:
            return running, state
        is_first = state.get(self.ema_first_time_index)
        _, batch = statistics(self, x, running, mask)
        rate = jnp.where(is_first, 1, 1 - self.momentum)
        averages, kept = average(running, batch[:2], rate)
        averages = select(batch, averages, running)
        kept = select(batch, kept, running)
        later = jnp.zeros_like(is_first)
        if not isinstance(batch.number, float):
            later = is_first & (batch.number[0] < 2)
        state = state.set(self.ema_first_time_index, later)
        return averages, state.set(self.ema_state_index, kept)


def _check_averages(momentum: Any, mode: Any, unbiased: Any) -> None:
    def check(ok: bool, name: str, expected: str, got: Any) -> None:
        require(ok, "BatchNorm", name, expected, got)

    check(mode in ("batch", "ema", "legacy"), "mode", '"batch" or "ema"', mode)
    ok = is_number(momentum, maximum=1) or (momentum is None and mode != "ema")
    expected = "a number from 0 to 1" + ("" if mode == "ema" else ", or None")
    check(ok, "momentum", expected, momentum)
    ok = isinstance(unbiased, bool) and not (unbiased and mode == "ema")
    expected = "False" if mode == "ema" else "True or False"
    check(ok, "unbiased", expected, unbiased)


def cumulative_norm(
    layer: Any, count: StateIndex[Any], running: StateIndex[Any], unbiased: bool
) -> BatchNorm:
    """A layer of the kind of :class:`BatchNorm` as one without momentum, and fresh."""
    if count.init is None or running.init is None:
        raise StateError(
            report(
                f"{type(layer).__name__}.cumulative: the layer was split before.",
                expected="a layer with its initial values",
                got="one of a model that make_with_state returned",
                fix="join_state(model, state) puts them back",
            )
        )
    mean, variance = running.init
    fresh = (jnp.zeros_like(mean), jnp.ones_like(variance))
    zeros = jnp.zeros_like(count.init, dtype=mean.dtype)
    counter, moments = running_slots(fresh, None, "batch_counter", zeros)
    same = ("weight", "bias", "axis_name", "input_size", "eps", "channelwise_affine")
    values = {name: getattr(layer, name) for name in same} | {
        "ema_first_time_index": None,
        "ema_state_index": None,
        "batch_counter": changed_index(counter, shapes=count.shapes),
        "batch_state_index": changed_index(moments, shapes=running.shapes),
        "momentum": None,
        "mode": "batch",
        "inference": False,
        "unbiased": unbiased,
        "axis_index_groups": getattr(layer, "axis_index_groups", None),
    }
    return assemble(BatchNorm, values)


def adopted_moments(
    counter: StateIndex[Array],
    index: StateIndex[Pair],
    state: State,
    other: BatchNorm,
    found: State,
    steps: int,
    momentum: float | None,
) -> State:
    """The state with the moments that a cumulative layer found, if it saw something."""
    number, moments = _found(other, found)
    state = state.set(index, where_seen(number, moments, state.get(index)))
    old = state.get(counter)
    count = number if momentum is None else jnp.full_like(old, steps)
    return state.set(counter, jnp.where(number > 0, count, old))


def _found(other: BatchNorm, found: State) -> tuple[Array, Pair]:
    """How many values a cumulative layer saw, and their moments."""
    assert other.batch_counter is not None and other.batch_state_index is not None
    return found.get(other.batch_counter), found.get(other.batch_state_index)
