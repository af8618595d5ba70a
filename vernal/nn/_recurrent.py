"""Recurrent cells: one step of a gated recurrent network."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._module.fields import field
from .._module.module import Module
from .._tree.filters import is_inexact_array
from ..typing import DTypeLike, Key
from ._checks import (
    check_array,
    check_shape,
    fail,
    is_size,
    require,
    require_key,
)
from ._init import default_dtype, uniform_fan_in
from ._numerics import compute_dtype


class GRUCell(Module):
    r"""One step of a gated recurrent unit.

    $$r = \sigma(W_{ir} x + b_r + W_{hr} h)$$
    $$z = \sigma(W_{iz} x + b_z + W_{hz} h)$$
    $$n = \tanh(W_{in} x + b_n + r \odot (W_{hn} h + b'_n))$$
    $$h' = (1 - z) \odot n + z \odot h$$

    The gates are stacked in the order reset r, update z, new n. Takes an input
    ``(input_size,)`` and a hidden state ``(hidden_size,)`` to the next hidden state,
    which has the dtype of the old one; half precision is computed in float32. Use
    ``jax.lax.scan`` for a sequence and ``jax.vmap`` for a batch.

    Reference: Cho et al., *Learning Phrase Representations using RNN Encoder-Decoder
    for Statistical Machine Translation*, 2014, arXiv:1406.1078. There r scales h before
    the product with $W_{hn}$; here, as in PyTorch and Flax, it scales the product.
    PyTorch has a second bias for r and z, with no effect of its own: from its cell,
    ``bias`` is ``bias_ih``, with those thirds of ``bias_hh`` added that belong to r and
    z, and ``bias_n`` is the last third of ``bias_hh``. All parameters are drawn from
    the uniform distribution on ±1/√hidden_size, as there (Flax: normal and orthogonal
    weights, zero bias).

    Arguments:
        input_size: size of the input.
        hidden_size: size of the hidden state.
        use_bias: whether to add the biases.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).
        key: a PRNG key for the initial parameters.

    Attributes:
        weight_ih: ``(3 * hidden_size, input_size)``, for r, z and n.
        weight_hh: ``(3 * hidden_size, hidden_size)``, likewise.
        bias: ``(3 * hidden_size,)``, likewise, or None.
        bias_n: ``(hidden_size,)``, the bias inside of the reset; or None.

    Raises:
        HyperparameterError: a size is no int ≥ 0.
        InputError: the input or the hidden state has another shape.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> cell = vn.nn.GRUCell(3, 4, key=jax.random.key(0))
    >>> step = lambda hidden, x: (cell(x, hidden),) * 2
    >>> last, all_steps = jax.lax.scan(step, jnp.zeros(4), jnp.ones((10, 3)))
    >>> last.shape, all_steps.shape
    ((4,), (10, 4))
    """

    weight_ih: Float[Array, "3*hidden_size input_size"]
    weight_hh: Float[Array, "3*hidden_size hidden_size"]
    bias: Float[Array, " 3*hidden_size"] | None
    bias_n: Float[Array, " hidden_size"] | None
    input_size: int = field(static=True)
    hidden_size: int = field(static=True)
    use_bias: bool = field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        *,
        key: Key,
    ) -> None:
        _check_sizes("GRUCell", input_size, hidden_size)
        require_key("GRUCell", key)
        ih_key, hh_key, bias_key, n_key = jr.split(key, 4)
        n, dtype = hidden_size, default_dtype(dtype)
        self.weight_ih = uniform_fan_in(ih_key, (3 * n, input_size), dtype, n)
        self.weight_hh = uniform_fan_in(hh_key, (3 * n, n), dtype, n)
        self.bias = uniform_fan_in(bias_key, (3 * n,), dtype, n) if use_bias else None
        self.bias_n = uniform_fan_in(n_key, (n,), dtype, n) if use_bias else None
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.use_bias = use_bias

    def __call__(
        self,
        input: Float[Array, " input_size"],
        hidden: Float[Array, " hidden_size"],
        *,
        key: Key | None = None,
    ) -> Float[Array, " hidden_size"]:
        """Returns the next hidden state, in the dtype of ``hidden``.

        Arguments:
            input: the input of this step, ``(input_size,)``.
            hidden: the hidden state after the previous step, ``(hidden_size,)``.
            key: not used.
        """
        check_shape(self, input, "input_size", input_size=self.input_size)
        _check_hidden(self, hidden)
        from_input = _affine(self.weight_ih, input, self.bias)
        from_hidden = _affine(self.weight_hh, hidden, None)
        reset_i, update_i, new_i = jnp.split(from_input, 3)
        reset_h, update_h, new_h = jnp.split(from_hidden, 3)
        if self.bias_n is not None:
            new_h = new_h + self.bias_n.astype(new_h.dtype)
        reset = jax.nn.sigmoid(reset_i + reset_h)
        update = jax.nn.sigmoid(update_i + update_h)
        new = jnp.tanh(new_i + reset * new_h)
        new = new + update * (hidden.astype(new.dtype) - new)
        return new.astype(hidden.dtype)


class LSTMCell(Module):
    r"""One step of a long short-term memory.

    $$i, f, o = \sigma(W_{i,f,o} x + U_{i,f,o} h + b_{i,f,o}), \qquad
      g = \tanh(W_g x + U_g h + b_g)$$
    $$c' = f \odot c + i \odot g, \qquad h' = o \odot \tanh(c')$$

    The gates are stacked in the order input i, forget f, cell g, output o. Takes an
    input ``(input_size,)`` and a pair ``(h, c)``, each ``(hidden_size,)``, to the next
    pair. Each of the two keeps its dtype, and half precision is computed in float32; a
    float32 ``c`` beside a half ``h`` keeps small changes from being rounded away over
    many steps. Use ``jax.lax.scan`` for a sequence and ``jax.vmap`` for a batch.

    Reference: Hochreiter and Schmidhuber, *Long Short-Term Memory*, 1997, Neural
    Computation 9(8). The forget gate is that of Gers, Schmidhuber and Cummins,
    *Learning to Forget*, 2000, Neural Computation 12(10). PyTorch has two biases that
    are added; ``bias`` is their sum. All parameters are drawn from the uniform
    distribution on ±1/√hidden_size, as there (Flax: normal and orthogonal weights, zero
    bias; Haiku adds 1 to the forget gate).

    Arguments:
        input_size: size of the input.
        hidden_size: size of ``h`` and of ``c``.
        use_bias: whether to add the bias.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).
        key: a PRNG key for the initial parameters.

    Attributes:
        weight_ih: W, ``(4 * hidden_size, input_size)``, for i, f, g and o.
        weight_hh: U, ``(4 * hidden_size, hidden_size)``, likewise.
        bias: ``(4 * hidden_size,)``, likewise, or None.

    Raises:
        HyperparameterError: a size is no int ≥ 0.
        InputError: the input or the hidden state has another shape.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> cell = vn.nn.LSTMCell(3, 4, key=jax.random.key(0))
    >>> step = lambda hidden, x: (cell(x, hidden), None)
    >>> start = (jnp.zeros(4), jnp.zeros(4))
    >>> (h, c), _ = jax.lax.scan(step, start, jnp.ones((10, 3)))
    >>> h.shape, c.shape
    ((4,), (4,))
    """

    weight_ih: Float[Array, "4*hidden_size input_size"]
    weight_hh: Float[Array, "4*hidden_size hidden_size"]
    bias: Float[Array, " 4*hidden_size"] | None
    input_size: int = field(static=True)
    hidden_size: int = field(static=True)
    use_bias: bool = field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        *,
        key: Key,
    ) -> None:
        _check_sizes("LSTMCell", input_size, hidden_size)
        require_key("LSTMCell", key)
        ih_key, hh_key, bias_key = jr.split(key, 3)
        n, dtype = hidden_size, default_dtype(dtype)
        self.weight_ih = uniform_fan_in(ih_key, (4 * n, input_size), dtype, n)
        self.weight_hh = uniform_fan_in(hh_key, (4 * n, n), dtype, n)
        self.bias = uniform_fan_in(bias_key, (4 * n,), dtype, n) if use_bias else None
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.use_bias = use_bias

    def __call__(
        self,
        input: Float[Array, " input_size"],
        hidden: tuple[Float[Array, " hidden_size"], Float[Array, " hidden_size"]],
        *,
        key: Key | None = None,
    ) -> tuple[Float[Array, " hidden_size"], Float[Array, " hidden_size"]]:
        """Returns the next pair ``(h, c)``, in the dtypes of the old one.

        Arguments:
            input: the input of this step, ``(input_size,)``.
            hidden: the pair ``(h, c)`` after the previous step.
            key: not used.
        """
        check_shape(self, input, "input_size", input_size=self.input_size)
        pair: Any = hidden
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            fail(
                self,
                "the hidden state is not a pair",
                expected="(h, c), two arrays (hidden_size,)",
                got=f"{type(pair).__name__}",
                fix=f"start from (jnp.zeros({self.hidden_size}),) * 2",
            )
        h, c = pair
        _check_hidden(self, h)
        _check_hidden(self, c)
        gates = _affine(self.weight_ih, input, self.bias)
        gates = gates + _affine(self.weight_hh, h, None)
        i, f, g, o = jnp.split(gates, 4)
        kept = jax.nn.sigmoid(f) * c.astype(f.dtype)
        new = kept + jax.nn.sigmoid(i) * jnp.tanh(g)
        out = jax.nn.sigmoid(o) * jnp.tanh(new)
        return out.astype(h.dtype), new.astype(c.dtype)


def _check_sizes(cell: str, input_size: int, hidden_size: int) -> None:
    require(is_size(input_size, 0), cell, "input_size", "an int ≥ 0", input_size)
    require(is_size(hidden_size, 0), cell, "hidden_size", "an int ≥ 0", hidden_size)


def _check_hidden(cell: GRUCell | LSTMCell, hidden: Any) -> None:
    # The new hidden state has this dtype, which so must be able to hold it.
    check_array(cell, hidden, "hidden state")
    if not is_inexact_array(hidden):
        fail(
            cell,
            "the hidden state is not floating-point",
            expected="an array (hidden_size,) of float16, bfloat16, float32 or float64",
            got=f"{hidden.dtype}",
            fix=f"start from jnp.zeros({cell.hidden_size})",
        )
    sizes: dict[str, Any] = {"hidden_size": cell.hidden_size}
    check_shape(cell, hidden, "hidden_size", what="hidden state", **sizes)


def _affine(weight: Array, x: Array, bias: Array | None) -> Array:
    """``W x + b``, summed and returned in at least float32."""
    dtype = compute_dtype(jnp.result_type(weight, x))
    y = jnp.tensordot(x, weight, ((0,), (1,)), preferred_element_type=dtype)
    return y if bias is None else y + bias.astype(dtype)
