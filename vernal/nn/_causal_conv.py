"""A causal convolution over a sequence, which may come in pieces."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._state.index import StateIndex
from ..typing import DTypeLike, Key
from ._checks import check_floating, check_shape, check_state, is_size, require
from ._conv import Conv1d
from ._init import default_dtype
from ._numerics import compute_dtype
from ._stateful import MaybeState, StatefulLayer


class CausalConv1d(StatefulLayer):
    r"""A convolution over time that sees no future, and keeps the past it needs.

    $$y_{o, p} = b_o + \sum_{c, k} W_{o, c, k} \, x_{c, p - d (K - 1 - k)}$$

    at each position $p$, with kernel size $K$ and dilation $d$; what lies before the
    sequence is 0. It takes the next entries ``(in_channels, n)`` of one sequence to
    ``(out_channels, n)``, and is called in two ways:

    - ``y, state = layer(x, state)`` goes on from where the state is: a stream of
      pieces of any length gives what it gives as one sequence. Each row of a batch has
      its own past; see :func:`with_rows`, and :func:`reset_rows` for a row that begins
      anew.
    - ``y, _ = layer(x, None)`` takes ``x`` for a whole sequence.

    The state are the last ``dilation * (kernel_size - 1)`` entries of the input, in at
    least float32.

    Reference: van den Oord et al., *WaveNet: A Generative Model for Raw Audio*, 2016,
    arXiv:1609.03499. PyTorch has no such layer; Flax's ``Conv`` with the padding
    ``"CAUSAL"`` is the second way.

    Arguments:
        in_channels: number of channels of the input.
        out_channels: number of channels of the output.
        kernel_size: entries under the kernel, at least 1.
        dilation: distance of neighboring entries under the kernel, at least 1.
        groups: as in :class:`Conv`.
        use_bias: whether to add ``b``.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).
        key: a PRNG key for the initial parameters.

    Attributes:
        conv: the :class:`Conv1d`.
        past: the slot of the last entries of the input.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: the input has another shape, or is not real floating-point.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> make = vn.nn.make_with_state(vn.nn.CausalConv1d)
    >>> conv, state = make(2, 3, kernel_size=4, dilation=2, key=jax.random.key(0))
    >>> x = jnp.ones((2, 10))
    >>> whole, _ = conv(x, None)
    >>> first, state = conv(x[:, :7], state)
    >>> rest, state = conv(x[:, 7:], state)
    >>> bool(jnp.allclose(rest, whole[:, 7:], atol=1e-6))
    True
    """

    conv: Conv1d
    past: StateIndex[Float[Array, "in_channels entries"]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int = 1,
        groups: int = 1,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        *,
        key: Key,
    ) -> None:
        for name, size in {"kernel_size": kernel_size, "dilation": dilation}.items():
            require(is_size(size), "CausalConv1d", name, "an int ≥ 1", size)
        dtype = default_dtype(dtype)
        ok = jnp.issubdtype(dtype, jnp.floating)
        require(ok, "CausalConv1d", "dtype", "a floating-point dtype", dtype)
        self.conv = Conv1d(
            in_channels,
            out_channels,
            kernel_size,
            dilation=dilation,
            groups=groups,
            use_bias=use_bias,
            dtype=dtype,
            key=key,
        )
        shape = (in_channels, dilation * (kernel_size - 1))
        self.past = StateIndex(jnp.zeros(shape, compute_dtype(dtype)), per_row=True)

    def __call__(
        self,
        x: Float[Array, "in_channels n"],
        state: MaybeState,
        *,
        key: Key | None = None,
    ) -> tuple[Float[Array, "out_channels n"], MaybeState]:
        """Convolves the next entries of one sequence.

        Arguments:
            x: the next entries, ``(in_channels, n)``, with n ≥ 1.
            state: the state of the model; or None, where ``x`` is a whole sequence.
            key: not used.

        Returns:
            An array ``(out_channels, n)``, and the new state, or None.
        """
        channels: dict[str, Any] = {"in_channels": self.conv.in_channels}
        check_shape(self, x, "in_channels n", **channels)
        check_floating(self, x)
        size = self.conv.dilation[0] * (self.conv.kernel_size[0] - 1)
        if state is None:
            past = jnp.zeros((x.shape[0], size), x.dtype)
        else:
            check_state(self, state)
            past = jnp.asarray(state.get(self.past))
        seen = jnp.concatenate([past.astype(x.dtype), x], axis=1)
        if state is not None:
            last = seen[:, seen.shape[1] - size :]
            state = state.set(self.past, last.astype(past.dtype))
        return self.conv(seen), state
