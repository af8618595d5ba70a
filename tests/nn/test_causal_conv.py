"""CausalConv1d beside a sum in NumPy, whole and in pieces."""

import copy
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError, InputError

LENGTH = 11
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "dilated": {"kernel_size": 4, "dilation": 3, "groups": 2},
    "pointwise": {"kernel_size": 1, "use_bias": False},
}


def build(kind: str, dtype: Any = jnp.float32) -> Any:
    """A layer from 2 to 4 channels, and its state."""
    make = nn.make_with_state(nn.CausalConv1d)
    return make(2, 4, **KINDS[kind], dtype=dtype, key=jr.key(0))


def inputs(*shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


def formula(conv: nn.Conv1d, x: Any) -> Any:
    """The equation of the docstring, term by term, in float64."""
    weight, x = np.asarray(conv.weight, float), np.asarray(x, float)
    outs, per_group, size = weight.shape
    y = np.zeros((outs, x.shape[1]))
    for o, p, c, k in itertools.product(
        range(outs), range(x.shape[1]), range(per_group), range(size)
    ):
        at = p - conv.dilation[0] * (size - 1 - k)
        channel = o * conv.groups // outs * per_group + c
        y[o, p] += weight[o, c, k] * x[channel, at] if at >= 0 else 0
    return y if conv.bias is None else y + np.asarray(conv.bias, float)


@jax.jit
def all_ways(layer: Any, x: Any, state: Any) -> Any:
    """Whole, as one piece, and in pieces of several sizes; and the last states."""
    whole, none = layer(x, None)
    assert none is None
    one, last = layer(x, copy.copy(state))
    pieces = []
    for start, stop in itertools.pairwise([0, 1, 2, 7, LENGTH]):
        y, state = layer(x[:, start:stop], state)
        pieces.append(y)
    return (whole, one, jnp.concatenate(pieces, axis=1)), (last, state)


@pytest.mark.parametrize("kind", KINDS)
def test_formula(kind: str) -> None:
    """However the sequence is cut: the sum of the docstring, and the last entries."""
    with x64():
        layer, state = build(kind, jnp.float64)
        x = inputs(2, LENGTH, dtype=float)
        ys, states = all_ways(layer, x, state)
        for y in ys:
            np.testing.assert_allclose(y, formula(layer.conv, x), 1e-12, 1e-12)
        for state in states:
            past = state.get(layer.past)
            assert jnp.array_equal(past, x[:, LENGTH - past.shape[1] :])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=str)
def test_half_precision(dtype: Any) -> None:
    """Pieces lose nothing to the state, which is kept in float32."""
    layer, state = build("dilated", dtype)
    x = inputs(2, LENGTH).astype(dtype)
    (whole, one, pieces), (_, state) = all_ways(layer, x, state)
    assert whole.dtype == dtype and jnp.array_equal(whole, one)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        pieces.astype(float), formula(layer.conv, x), 4 * eps, 4 * eps
    )
    assert state.get(layer.past).dtype == jnp.float32


def test_rows_and_resets() -> None:
    """Rows have a past of their own, and one can begin anew."""
    layer, state = build("dilated")
    call, xs = jax.jit(nn.batched(layer)), inputs(3, 2, 8)
    initial = nn.with_rows(state, 3)
    _, state = call(xs[:, :, :4], initial)
    state = nn.reset_rows(state, initial, np.array([True, False, False]))
    ys, _ = call(xs[:, :, 4:], state)
    np.testing.assert_allclose(ys[0], formula(layer.conv, xs[0, :, 4:]), 1e-5, 1e-6)
    for y, x in zip(ys[1:], xs[1:], strict=True):
        np.testing.assert_allclose(y, formula(layer.conv, x)[:, 4:], 1e-5, 1e-6)


def test_gradients() -> None:
    """Through two pieces in one loss they are those of the whole sequence."""

    @jax.jit
    def gradients(layer: Any, x: Any, state: Any) -> Any:
        def whole(layer: Any, x: Any) -> Any:
            return jnp.sum(jnp.sin(layer(x, None)[0]))

        def pieces(layer: Any, x: Any, state: Any) -> Any:
            a, state = layer(x[:, :4], state)
            b, _ = layer(x[:, 4:], state)
            return jnp.sum(jnp.sin(a)) + jnp.sum(jnp.sin(b))

        args = (layer, x)
        return jax.grad(whole, (0, 1))(*args), jax.grad(pieces, (0, 1))(*args, state)

    with x64():
        layer, state = build("dilated", jnp.float64)
        want, got = gradients(layer, inputs(2, LENGTH, dtype=float), state)
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, 1e-12, 1e-12)


def test_refusals() -> None:
    """Arguments outside their range, and inputs of other forms, are refused."""
    for name, options in {
        "kernel_size": {"kernel_size": 0},
        "dilation": {"kernel_size": 2, "dilation": (2,)},
        "dtype": {"kernel_size": 2, "dtype": jnp.int32},
    }.items():
        with refuses(HyperparameterError, "CausalConv1d", f"`{name}`"):
            nn.CausalConv1d(2, 3, **options, key=jr.key(0))
    layer, state = build("plain")
    for x, word in (
        (jnp.ones((3, 4)), "in_channels = 2"),
        (jnp.ones((5, 2, 4)), "jax.vmap"),
        (jnp.ones((2, 4), int), "int32"),
    ):
        with refuses(InputError, "CausalConv1d", word):
            layer(x, state)
    with refuses(InputError, "CausalConv1d", "not a State"):
        layer(jnp.ones((2, 3)), jnp.zeros(4))
