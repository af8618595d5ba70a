"""The arithmetic that layers share, as functions of arrays."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from vernal.nn import (
    BatchNorm,
    Linear,
    Sequential,
    SpectralNorm,
    _batch_moments,
    _numerics,
    make_with_state,
)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


WIDTHS = {
    "float16": "float32",
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
    "complex64": "complex64",
}


@pytest.mark.parametrize("dtype, expected", WIDTHS.items())
def test_compute_dtype(dtype, expected):
    """At least float32, whatever is said about promotion."""
    assert _numerics.compute_dtype(jnp.dtype(dtype)) == expected


@pytest.mark.parametrize("several", [("a", "b"), ["a", "b"]])
def test_axis_names(several):
    """One name or several, as a tuple; a name may be any hashable value."""
    assert _numerics.axis_names(several) == ("a", "b")
    assert _numerics.axis_names("ab") == ("ab",)
    assert _numerics.axis_names(frozenset("ab")) == (frozenset("ab"),)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_moments(offset, dtype):
    """Over the given axes, in float32, and right where the mean is large."""
    x = (normal(4, 5, 6) + offset).astype(dtype)
    mean, variance = _numerics.moments(x, (0, 2))
    assert mean.shape == variance.shape == (1, 5, 1)
    assert mean.dtype == variance.dtype == jnp.float32
    exact = oracles.to_float64(x)
    np.testing.assert_allclose(mean, exact.mean((0, 2), keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(variance, exact.var((0, 2), keepdims=True), rtol=1e-5)


def test_masked_moments():
    """Of the entries where the mask is true, whatever the others are; of none, 0."""
    x, mask = normal(4, 5, 6) + 1e3, np.random.default_rng(1).random((4, 1, 6)) > 0.5
    mean, variance = _numerics.moments(jnp.where(mask, x, jnp.nan), (0, 2), mask)
    assert mean.shape == variance.shape == (1, 5, 1)
    rows = oracles.to_float64(x).transpose(1, 0, 2)[:, mask[:, 0]]
    np.testing.assert_allclose(mean[0, :, 0], rows.mean(1), rtol=1e-5)
    np.testing.assert_allclose(variance[0, :, 0], rows.var(1), rtol=1e-5)
    none = _numerics.moments(x, (0, 2), np.zeros_like(mask))
    np.testing.assert_array_equal(np.stack(none), 0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_normalize(dtype):
    """Computed in float32 also from parameters of the input's dtype; rounded once."""
    x, weight, bias = (normal(3, 4, seed=i).astype(dtype) for i in range(3))
    mean, variance = normal(3, 1, seed=3), jnp.exp(normal(3, 1, seed=4))
    args = [oracles.to_float64(a) for a in (x, mean, variance, weight, bias)]
    exact = (args[0] - args[1]) / np.sqrt(args[2] + 0.1)
    for affine in [(None, None), (weight, None), (None, bias), (weight, bias)]:
        got = _numerics.normalize(x, mean, variance, 0.1, *affine)
        assert got.dtype == dtype
        expected = exact * (1 if affine[0] is None else args[3])
        expected = expected + (0 if affine[1] is None else args[4])
        bound = np.abs(expected) * float(jnp.finfo(dtype).eps) + 1e-6
        assert np.all(np.abs(oracles.to_float64(got) - expected) <= bound)


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_power_iteration(steps):
    """The formula; where a product vanishes or overflows the vector stays."""
    matrix, u, v = normal(4, 3), normal(4, seed=1), normal(3, seed=2)
    iterate = functools.partial(_numerics.power_iteration, steps=steps, eps=1e-12)
    got = iterate(matrix, u, v)
    for a, b in zip(got, oracles.power_iteration(matrix, u, v, steps), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    for scale in (0.0, 1e-20, 1e30, np.inf, np.nan):
        for a, b in zip(iterate(matrix * scale, u, v), (u, v), strict=True):
            np.testing.assert_array_equal(a, b)


def test_calls_outside_of_jit_compile_once(caplog):
    """The control flow inside is not compiled anew by each eager call."""
    norm, state = make_with_state(BatchNorm)(3, "batch")
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    key = jax.random.key(0)
    linear = Linear(3, 3, key=key)
    spectral, spectral_state = make_with_state(SpectralNorm)(
        linear, "weight", 3, key=key
    )

    def once() -> None:
        nonlocal state, spectral_state
        _, state = jax.vmap(norm, axis_name="batch", **axes)(normal(4, 3), state)
        _, spectral_state = spectral(jnp.ones(3), spectral_state)

    once()
    once()
    with jax.log_compiles():
        once()
        assert [x for x in caplog.messages if "XLA compilation" in x] == []
        jax.jit(lambda x: x + 1)(1.0)  # so would be seen
        assert [x for x in caplog.messages if "XLA compilation" in x] != []


def test_a_repeated_layer_is_traced_once(monkeypatch):
    """The layers of one kind and shape share one traced function, and one lowered."""
    traced = []
    inner = _batch_moments._averages

    def averages(*args: Any, **kwargs: Any) -> Any:
        traced.append(args)
        return inner(*args, **kwargs)

    monkeypatch.setattr(_batch_moments, "_averages", averages)
    model, state = make_with_state(Sequential)([BatchNorm(3, "batch") for _ in "abcde"])

    def loss(model: Any, state: Any, xs: Any) -> Any:
        axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
        ys, state = jax.vmap(model, axis_name="batch", **axes)(xs, state)
        return jnp.sum(jnp.sin(ys)), state

    jax.clear_caches()
    step = jax.jit(jax.grad(loss, has_aux=True))
    text = step.lower(model, state, jnp.ones((4, 3))).as_text()
    assert len(traced) == 3  # the pass, the loop, the derivatives
    # The first layer's input has no derivative, so it is one of its own.
    assert text.count("func.func private @_update") == 2
    assert text.count("call @_update") == 5
