"""RNN beside its cell in a loop of NumPy, whole and in pieces."""

import copy
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError, InputError

CELLS: dict[str, Any] = {"GRUCell": nn.GRUCell, "LSTMCell": nn.LSTMCell}
LENGTH = 9
every_cell = pytest.mark.parametrize("name", CELLS)


def build(name: str, dtype: Any = jnp.float32) -> Any:
    """A layer of 3 inputs and 4 hidden units, and its state."""
    return nn.make_with_state(
        lambda: nn.RNN(CELLS[name](3, 4, dtype=dtype, key=jr.key(0)))
    )()


def inputs(*shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(1).normal(size=(*shape, 3)).astype(dtype)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def formula(cell: Any, xs: Any) -> Any:
    """The equations of the cells, step by step in float64; the last c or h besides."""
    ih, hh, bias = (
        np.asarray(a, float) for a in (cell.weight_ih, cell.weight_hh, cell.bias)
    )
    h, c, ys = np.zeros(4), np.zeros(4), []
    for x in np.asarray(xs, float):
        a, b = ih @ x + bias, hh @ h
        if isinstance(cell, nn.GRUCell):
            r, z = sigmoid(a[:4] + b[:4]), sigmoid(a[4:8] + b[4:8])
            n = np.tanh(a[8:] + r * (b[8:] + np.asarray(cell.bias_n, float)))
            h = c = (1 - z) * n + z * h
        else:
            i, f, g, o = np.split(a + b, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        ys.append(h)
    return np.stack(ys), c


@jax.jit
def all_ways(layer: Any, x: Any, state: Any) -> Any:
    """Whole, as one piece, and in pieces of several sizes; and the last states."""
    whole, none = layer(x, None)
    assert none is None
    one, last = layer(x, copy.copy(state))
    pieces = []
    for start, stop in itertools.pairwise([0, 5, 6, 7, LENGTH]):
        y, state = layer(x[start:stop], state)
        pieces.append(y)
    return (whole, one, jnp.concatenate(pieces)), (last, state)


@every_cell
def test_formula(name: str) -> None:
    """However the sequence is cut: outputs and last state are the cell's equations."""
    with x64():
        layer, state = build(name, jnp.float64)
        x = inputs(LENGTH, dtype=float)
        ys, states = all_ways(layer, x, state)
        want, last = formula(layer.cell, x)
        for y in ys:
            np.testing.assert_allclose(y, want, 1e-12, 1e-12)
        for state in states:
            hidden = jnp.stack(jax.tree.leaves(state.get(layer.hidden)))
            np.testing.assert_allclose(hidden[0], want[-1], 1e-12, 1e-12)
            np.testing.assert_allclose(hidden[-1], last, 1e-12, 1e-12)


@every_cell
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32], ids=str)
def test_precision(name: str, dtype: Any) -> None:
    """In any dtype pieces give what the whole gives, and the state is float32.

    Not bit for bit: XLA compiles a loop of one turn in another way.
    """
    layer, state = build(name, dtype)
    (whole, one, pieces), (last, state) = all_ways(
        layer, inputs(LENGTH).astype(dtype), state
    )
    assert whole.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    assert vn.tree_equal(last, state, rtol=2 * eps, atol=eps)
    assert jnp.array_equal(whole, one)
    want = formula(layer.cell, inputs(LENGTH).astype(dtype))[0]
    for y in (whole, pieces):
        np.testing.assert_allclose(np.asarray(y, float), want, 8 * eps, 8 * eps)
    assert {a.dtype for a in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_rows_and_resets() -> None:
    """Rows have hidden states of their own, and one can begin anew."""
    layer, state = build("LSTMCell")
    call, xs = jax.jit(nn.batched(layer)), inputs(2, 6)
    initial = nn.with_rows(state, 2)
    _, state = call(xs[:, :3], initial)
    state = nn.reset_rows(state, initial, np.array([True, False]))
    ys, _ = call(xs[:, 3:], state)
    np.testing.assert_allclose(ys[0], formula(layer.cell, xs[0, 3:])[0], 1e-5, 1e-6)
    np.testing.assert_allclose(ys[1], formula(layer.cell, xs[1])[0][3:], 1e-5, 1e-6)


def test_gradients() -> None:
    """Through two pieces in one loss they are those of the whole sequence."""
    layer, state = build("GRUCell")

    @jax.jit
    def gradients(layer: Any, x: Any, state: Any) -> Any:
        def whole(layer: Any, x: Any) -> Any:
            return jnp.sum(jnp.sin(layer(x, None)[0]))

        def pieces(layer: Any, x: Any, state: Any) -> Any:
            a, state = layer(x[:4], state)
            b, _ = layer(x[4:], state)
            return jnp.sum(jnp.sin(a)) + jnp.sum(jnp.sin(b))

        args = (layer, x)
        return jax.grad(whole, (0, 1))(*args), jax.grad(pieces, (0, 1))(*args, state)

    with x64():
        layer, state = build("GRUCell", jnp.float64)
        want, got = gradients(layer, inputs(LENGTH, dtype=float), state)
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, 1e-12, 1e-12)


class Sum(vn.Module):
    """A cell of one's own: a running sum, and a count beside it."""

    def __call__(self, x: Any, hidden: Any) -> Any:
        return {"a sum": hidden["a sum"] + x, "count": hidden["count"] + 1}


def test_a_cell_of_ones_own() -> None:
    """It says what its hidden state is like; that starts from zeros."""
    form = {"a sum": jnp.ones(3), "count": jax.ShapeDtypeStruct((), jnp.int32)}
    layer, state = nn.make_with_state(nn.RNN)(Sum(), form)
    xs = inputs(5)
    _, state = layer(xs[:2], state)
    ys, state = layer(xs[2:], jax.tree.map(np.asarray, state))
    np.testing.assert_allclose(ys, np.cumsum(xs, axis=0)[2:], 1e-5, 1e-6)
    assert int(state.get(layer.hidden)["count"]) == 5
    same, _ = nn.make_with_state(nn.RNN)(Sum(), form)
    assert same == layer


def test_refusals() -> None:
    """What is no cell, has no form, or is no such sequence is refused."""
    for args, name in (((3,), "cell"), ((Sum(),), "hidden"), ((Sum(), 0.0), "hidden")):
        with refuses(HyperparameterError, "RNN", f"`{name}`"):
            nn.RNN(*args)
    with refuses(HyperparameterError, "RNN", "`hidden`", "first"):
        nn.RNN(Sum(), jnp.zeros(3, int))
    layer, state = build("GRUCell")
    for x, word in (
        (jnp.ones((2, 4)), "input_size = 3"),
        (jnp.ones((5, 2, 3)), "jax.vmap"),
        (jnp.ones((2, 3), int), "int32"),
    ):
        with refuses(InputError, "RNN", word):
            layer(x, state)
    with refuses(InputError, "RNN", "not a State"):
        layer(jnp.ones((2, 3)), jnp.zeros(4))
