"""A recurrent cell over a sequence, which may come in pieces."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._module.fields import field
from .._state.index import StateIndex
from ..typing import Key, PyTree
from ._checks import check_floating, check_shape, check_state, require
from ._numerics import compute_dtype
from ._recurrent import GRUCell, LSTMCell
from ._stateful import MaybeState, StatefulLayer

_Cell = TypeVar("_Cell", bound=Callable[..., Any])


class RNN(StatefulLayer, Generic[_Cell]):
    r"""Runs a recurrent cell over a sequence, and keeps where it is.

    $$h_p = \mathrm{cell}(x_p, h_{p-1}), \qquad h_{-1} = 0$$

    It takes the next entries ``(n, input_size)`` of one sequence to the hidden states
    after each, ``(n, hidden_size)``, in one scan, and is called in two ways:

    - ``y, state = layer(x, state)`` goes on from where the state is: a stream of
      pieces of any length gives what it gives as one sequence. Each row of a batch has
      its own hidden state; see :func:`with_rows`, and :func:`reset_rows` for
      a row that begins anew.
    - ``y, _ = layer(x, None)`` takes ``x`` for a whole sequence.

    The hidden state is kept in at least float32, and begins as zeros. From one entry to
    the next ``h``, the output, has the dtype of ``x``, and ``c`` of an LSTM the one in
    which it is kept. To differentiate one piece after the other, with the state between
    them as a constant, is truncated backpropagation through time.

    Reference for training on pieces: Williams and Peng, *An Efficient Gradient-Based
    Algorithm for On-Line Training of Recurrent Network Trajectories*, 1990, Neural
    Computation 2(4). PyTorch's ``GRU`` and ``LSTM`` take and return the hidden state,
    as Flax's ``RNN`` does.

    Arguments:
        cell: called as ``hidden = cell(x, hidden)``: a :class:`GRUCell`, a
            :class:`LSTMCell`, or a layer of your own.
        hidden: the form of the hidden state: a pytree of arrays, or of
            ``jax.ShapeDtypeStruct``, of which the first is the output. Needed for a
            cell of your own.

    Attributes:
        cell: the cell.
        hidden: the slot of the hidden state.

    Raises:
        HyperparameterError: the form of the hidden state is missing, or the first array
            in it is not floating-point.
        InputError: the input has another shape, or is not real floating-point.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> cell = vn.nn.GRUCell(3, 4, key=jax.random.key(0))
    >>> rnn, state = vn.nn.make_with_state(vn.nn.RNN)(cell)
    >>> xs = jnp.ones((5, 10, 3))
    >>> whole, _ = vn.nn.batched(rnn)(xs, None)
    >>> state = vn.nn.with_rows(state, 5)
    >>> first, state = vn.nn.batched(rnn)(xs[:, :7], state)
    >>> rest, state = vn.nn.batched(rnn)(xs[:, 7:], state)
    >>> bool(jnp.allclose(rest, whole[:, 7:], atol=1e-6))
    True
    """

    cell: _Cell
    hidden: StateIndex[PyTree]
    form: tuple[Any, ...] = field(static=True, repr=False)

    def __init__(self, cell: _Cell, hidden: PyTree = None) -> None:
        require(callable(cell), "RNN", "cell", "a recurrent cell", cell)
        leaves, treedef = jax.tree.flatten(_form(cell) if hidden is None else hidden)
        shaped = all(hasattr(x, "shape") and hasattr(x, "dtype") for x in leaves)
        ok = bool(leaves) and shaped and jnp.issubdtype(leaves[0].dtype, jnp.floating)
        expected = "arrays, of which the first is the floating-point output"
        require(ok, "RNN", "hidden", expected, hidden)
        self.cell = cell
        self.form = (treedef, *((tuple(x.shape), jnp.dtype(x.dtype)) for x in leaves))
        self.hidden = StateIndex(self._start(), per_row=True)

    def __call__(
        self,
        x: Float[Array, "n input_size"],
        state: MaybeState,
        *,
        key: Key | None = None,
    ) -> tuple[Float[Array, "n hidden_size"], MaybeState]:
        """Runs the cell over the next entries of one sequence.

        Arguments:
            x: the next entries, ``(n, input_size)``.
            state: the state of the model; or None, where ``x`` is a whole sequence.
            key: not used.

        Returns:
            The hidden states after each entry, ``(n, hidden_size)``, in the dtype of
            ``x``; and the new state, or None.
        """
        if isinstance(self.cell, GRUCell | LSTMCell):
            check_shape(self, x, "n input_size", input_size=self.cell.input_size)
        else:
            check_shape(self, x, "n ...")
        check_floating(self, x)
        hidden = self._start()
        if state is not None:
            check_state(self, state)
            hidden = state.get(self.hidden)
        treedef: Any = self.form[0]
        kept = jax.tree.leaves(hidden)
        first, *others = map(jnp.asarray, kept)
        start = treedef.unflatten([first.astype(x.dtype), *others])

        def step(hidden: PyTree, entry: Array) -> tuple[PyTree, Array]:
            hidden = self.cell(entry, hidden)
            return hidden, jax.tree.leaves(hidden)[0]

        hidden, y = lax.scan(step, start, jnp.asarray(x))
        if state is not None:
            first, *others = jax.tree.leaves(hidden)
            hidden = treedef.unflatten([first.astype(kept[0].dtype), *others])
            state = state.set(self.hidden, hidden)
        return y, state

    def _start(self) -> PyTree:
        treedef: Any = self.form[0]
        forms = self.form[1:]
        return treedef.unflatten([jnp.zeros(shape, dtype) for shape, dtype in forms])


def _form(cell: Any) -> PyTree:
    """The form of the hidden state of a built-in cell; None for others."""
    if not isinstance(cell, GRUCell | LSTMCell):
        return None
    dtype = compute_dtype(cell.weight_hh.dtype)
    h = jax.ShapeDtypeStruct((cell.hidden_size,), dtype)
    return h if isinstance(cell, GRUCell) else (h, h)
