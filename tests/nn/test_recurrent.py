"""GRUCell and LSTMCell beside PyTorch's values, NumPy, and Equinox."""

import pathlib
from typing import Any

import equinox as eqx
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

# Written by scripts/make_torch_fixtures/recurrent.py.
FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "recurrent.npz")
CELLS: dict[str, Any] = {"GRUCell": nn.GRUCell, "LSTMCell": nn.LSTMCell}
PARTS = {"GRUCell": 1, "LSTMCell": 2}
HALVES = [jnp.float16, jnp.bfloat16]

every_cell = pytest.mark.parametrize("name", CELLS)


def step(cell: Any, hidden: Any, x: Any) -> Any:
    """One step, with the hidden state as one array ``(parts, hidden_size)``."""
    if len(hidden) == 2:
        return jnp.stack(cell(x, tuple(hidden)))
    return cell(x, hidden[0])[None]


@jax.jit
def run(cell: Any, start: Any, xs: Any) -> Any:
    """The hidden states after each step of a sequence."""

    def body(hidden: Any, x: Any) -> Any:
        new = step(cell, hidden, x)
        return new, new

    return jax.lax.scan(body, start, xs)[1]


def build(name: str, dtype: Any = jnp.float32) -> Any:
    """A cell of 3 inputs and 4 hidden units, a hidden state, and an input."""
    cell = CELLS[name](3, 4, dtype=dtype, key=jr.key(0))
    hidden = jr.normal(jr.key(1), (PARTS[name], 4)).astype(dtype)
    return cell, hidden, jr.normal(jr.key(2), (3,)).astype(dtype)


def from_torch(name: str, arrays: dict[str, Any], suffix: str = "") -> dict[str, Any]:
    """Our parameters (or, with the suffix, their gradients) in terms of PyTorch's.

    Biases that PyTorch adds up have one gradient; ours is added to once.
    """
    got = {key: arrays[key + suffix] for key in ("weight_ih", "weight_hh")}
    if "bias_ih" not in arrays:
        return got
    first, second = arrays[f"bias_ih{suffix}"], arrays[f"bias_hh{suffix}"].copy()
    if name == "GRUCell":
        got["bias_n"] = second[8:].copy()
        second[8:] = 0
    return got | {"bias": first if suffix else first + second}


@jax.jit
def run_and_pull(cell: Any, start: Any, xs: Any, cotangent: Any) -> Any:
    """The hidden states, and the gradients by all arguments."""
    out, pull = jax.vjp(run, cell, start, xs)
    return out, *pull(cotangent)


@every_cell
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
    ("steps", "dtype", "tolerance"),
    [(1, jnp.float64, 1e-13), (50, jnp.float64, 1e-12), (50, jnp.float32, 1e-5)],
)
def test_pytorch(
    name: str, use_bias: bool, steps: int, dtype: Any, tolerance: float
) -> None:
    """Hidden states and gradients over a sequence are PyTorch's."""
    prefix = f"{name}.{use_bias}.{steps}."
    arrays = {k.removeprefix(prefix): v for k, v in FIXTURE.items() if prefix in k}
    with x64(dtype == jnp.float64):
        # Only the structure: drawing parameters would take as long as all the rest.
        make = lambda: CELLS[name](3, 4, use_bias, dtype, key=jr.key(0))  # noqa: E731
        cell = vn.filter_eval_shape(make)
        for key, value in from_torch(name, arrays).items():
            new = jnp.asarray(value, dtype)
            cell = vn.tree_at(lambda m, key=key: getattr(m, key), cell, new)
        args = [jnp.asarray(arrays[k], dtype) for k in ("start", "xs", "cotangent")]
        out, grads, start_grad, xs_grad = run_and_pull(cell, *args)
        got = {"out": out, "xs": xs_grad, "start": start_grad}
        want = {"out": arrays["out"]}
        want |= {key: arrays[f"{key}.grad"] for key in ("xs", "start")}
        for key, value in from_torch(name, arrays, ".grad").items():
            got[key], want[key] = getattr(grads, key), value
        for key, array in got.items():
            assert array.dtype == dtype
            bound = tolerance * np.abs(want[key]).max()
            np.testing.assert_allclose(array, want[key], 0, bound, err_msg=key)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@every_cell
def test_formula(name: str) -> None:
    """One step is the equation of the docstring."""
    cell, hidden, x = build(name)
    got = np.asarray(step(cell, hidden, x))
    wi, wh, b, hidden, x = (
        np.asarray(a, np.float64)
        for a in (cell.weight_ih, cell.weight_hh, cell.bias, hidden, x)
    )
    if name == "GRUCell":
        h = hidden[0]
        r = sigmoid(wi[:4] @ x + b[:4] + wh[:4] @ h)
        z = sigmoid(wi[4:8] @ x + b[4:8] + wh[4:8] @ h)
        n = np.tanh(wi[8:] @ x + b[8:] + r * (wh[8:] @ h + np.asarray(cell.bias_n)))
        want = [(1 - z) * n + z * h]
    else:
        h, c = hidden
        i, f, g, o = np.split(wi @ x + wh @ h + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        want = [sigmoid(o) * np.tanh(c), c]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@every_cell
@pytest.mark.parametrize(
    ("sizes", "use_bias", "dtype"),
    [
        ((3, 4), True, None),
        ((1, 1), False, None),
        ((0, 2), True, None),
        ((2, 3), True, jnp.bfloat16),
    ],
)
def test_equinox(name: str, sizes: Any, use_bias: bool, dtype: Any) -> None:
    """The same key gives the same parameters, bit for bit, and the same step."""
    ours = CELLS[name](*sizes, use_bias, dtype, key=jr.key(3))
    theirs = getattr(eqx.nn, name)(*sizes, use_bias, dtype, key=jr.key(3))
    assert list(type(ours).__fields__) == list(type(theirs).__dataclass_fields__)
    for key in type(ours).__fields__:
        a, b = getattr(ours, key), getattr(theirs, key)
        assert type(a) is type(b) and np.array_equal(a, b)
    n, m = sizes
    x, hidden = jr.normal(jr.key(1), (n,)), jr.normal(jr.key(2), (PARTS[name], m))
    if dtype is None:
        want = step(theirs, hidden, x)
        np.testing.assert_allclose(step(ours, hidden, x), want, rtol=1e-5, atol=1e-6)


@every_cell
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision(name: str, dtype: Any) -> None:
    """Half in, half out; the step is that of float32, rounded once at the end."""
    cell, hidden, x = build(name, dtype)
    got = step(cell, hidden, x)
    assert got.dtype == dtype
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (cell, hidden, x))
    want = step(*wide)
    ulp = float(jnp.finfo(dtype).eps)
    difference = np.abs(np.asarray(got, np.float32) - want)
    assert np.all(difference <= 0.51 * ulp * np.abs(want))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_memory_of_float32_beside_half(dtype: Any) -> None:
    """Each part of the pair keeps its dtype; ``c`` can be in float32 among halves."""
    cell, (h, c), x = build("LSTMCell", dtype)
    want = step(*jax.tree.map(lambda a: a.astype(jnp.float32), (cell, (h, c), x)))
    new_h, new_c = cell(x, (h, c.astype(jnp.float32)))
    assert (new_h.dtype, new_c.dtype) == (dtype, jnp.float32)
    np.testing.assert_allclose(new_c, want[1], rtol=1e-6)


@pytest.mark.relaxed  # mixed dtypes are the point
@every_cell
def test_mixed_dtypes_can_be_scanned(name: str) -> None:
    """Under JAX's default promotion the hidden state keeps its dtype all the same."""
    cell, hidden, x = build(name)
    for dtype in HALVES:
        out = run(cell, hidden.astype(dtype), jnp.stack([x] * 3))
        assert out.dtype == dtype
        want = run(cell, hidden, jnp.stack([x] * 3))
        np.testing.assert_allclose(out.astype(jnp.float32), want, atol=0.05)
    assert step(cell, hidden, jnp.array([1, 0, 0])).dtype == jnp.float32


@every_cell
def test_saturated_gates(name: str) -> None:
    """Huge inputs give finite outputs and finite gradients."""
    cell, hidden, x = build(name)
    grads = jax.grad(lambda *args: jnp.sum(step(*args)))(cell, hidden, 1e20 * x)
    leaves = [step(cell, hidden, 1e20 * x), *jax.tree.leaves(grads)]
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)


@every_cell
@pytest.mark.parametrize("argument", ["input_size", "hidden_size"])
@pytest.mark.parametrize("value", [-1, 2.0, True, None, "scalar"])
def test_bad_arguments(name: str, argument: str, value: Any) -> None:
    """A size that is no int ≥ 0 is refused, by name."""
    sizes = {"input_size": 3, "hidden_size": 4, argument: value}
    with refuses(HyperparameterError, name, f"`{argument}`"):
        CELLS[name](**sizes, key=jr.key(0))


@every_cell
@pytest.mark.parametrize(
    ("x", "part", "words"),
    [
        (jnp.ones(4), jnp.ones(4), ["(input_size,) with input_size = 3", "(4,)"]),
        (jnp.ones((5, 3)), jnp.ones(4), ["(5, 3)", "jax.vmap(layer)"]),
        (jnp.ones(3), jnp.ones(3), ["hidden state", "hidden_size = 4", "(3,)"]),
        (jnp.ones(3), jnp.ones((5, 4)), ["(5, 4)", "jax.vmap(layer)"]),
        (jnp.ones(3), jnp.ones(4, int), ["hidden state", "int32", "jnp.zeros(4)"]),
        (jnp.ones(3), [1.0] * 4, ["hidden state", "list"]),
    ],
)
def test_bad_inputs(name: str, x: Any, part: Any, words: list[str]) -> None:
    """An input or hidden state of another shape or kind is refused."""
    cell, _, _ = build(name)
    good = jnp.ones(4)
    pairs = [(good, part), (part, good)] if name == "LSTMCell" else [part]
    for hidden in pairs:
        with refuses(InputError, name, *words):
            cell(x, hidden)


@pytest.mark.parametrize("hidden", [jnp.ones(4), jnp.ones((2, 4)), (jnp.ones(4),) * 3])
def test_a_hidden_state_that_is_no_pair(hidden: Any) -> None:
    """An LSTM needs both h and c."""
    cell, _, x = build("LSTMCell")
    with refuses(InputError, "LSTMCell", "(h, c)", "jnp.zeros(4)"):
        cell(x, hidden)
