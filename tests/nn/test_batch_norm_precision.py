"""BatchNorm where rounding could spoil it: half precision, large means, odd batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.world import x64
from vernal.nn import BatchNorm, make_with_state

HALVES = [jnp.float16, jnp.bfloat16]
MODES = ["batch", "ema"]


@jax.jit
def call(norm: Any, xs: Any, state: Any) -> Any:
    """Calls the layer on a batch, as users do."""
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    return jax.vmap(norm, axis_name="batch", **axes)(xs, state)


def stored(norm: BatchNorm, state: Any) -> oracles.Moments:
    """The running mean and variance."""
    is_ema = norm.mode == "ema"
    return oracles.Moments(
        *state.get(norm.ema_state_index if is_ema else norm.batch_state_index)
    )


def normal(shape: tuple[int, ...], seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision(dtype, mode):
    """Statistics are float32, and exact as such; the output has the input's dtype."""
    norm, state = make_with_state(BatchNorm)(3, "batch", mode=mode)
    xs = jnp.asarray(5 + normal((16, 3, 4)), dtype)
    for _ in range(2):
        ys, state = call(norm, xs, state)
        expected = oracles.batch_moments(xs)
        for got, wanted in zip(stored(norm, state), expected, strict=True):
            assert got.dtype == jnp.float32
            np.testing.assert_allclose(got, wanted, rtol=2e-6)
        assert ys.dtype == dtype
        # Rounded once, from the right value.
        wanted = oracles.batch_norm(xs, expected)
        bound = np.abs(wanted) * float(jnp.finfo(dtype).eps) + 1e-6
        assert np.all(np.abs(oracles.to_float64(ys) - wanted) <= bound)


@pytest.mark.parametrize("inference", [False, True])
def test_the_edge_of_float16(inference):
    """Values of ±6e4 neither overflow in the statistics nor in the output."""
    norm, state = make_with_state(BatchNorm)(2, "batch")
    signs = np.sign(normal((16, 2, 5)))
    xs = jnp.asarray(6e4 * signs + [[[0.0], [64.0]]], jnp.float16)
    assert jnp.all(jnp.isfinite(xs))
    ys, state = call(norm, xs, state)
    if inference:
        ys, _ = jax.vmap(lambda x: norm(x, state, inference=True))(xs)
    expected = oracles.batch_moments(xs)
    for got, wanted in zip(stored(norm, state), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    got = oracles.to_float64(ys)
    np.testing.assert_allclose(got, oracles.batch_norm(xs, expected), rtol=1e-3)


def test_all_values_at_the_edge_of_float16():
    """A channel close to the largest float16 has its small variance, and no inf."""
    norm, state = make_with_state(BatchNorm)(1, "batch")
    xs = jnp.asarray(65504 - 32 * (np.arange(64.0) % 3)[:, None], jnp.float16)
    ys, state = call(norm, xs, state)
    expected = oracles.batch_moments(xs)
    np.testing.assert_allclose(stored(norm, state).variance, expected.variance, 1e-3)
    assert jnp.all(jnp.isfinite(ys))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(32, 2), (8, 2, 3, 5)], ids=len)
def test_a_mean_of_ten_thousand_standard_deviations(shape, mode):
    """In float32 the variance stays within 1e-3 of float64, at each of six steps."""
    norm, state = make_with_state(BatchNorm)(2, "batch", momentum=0.5, mode=mode)
    history = []
    for step in range(6):
        xs = jnp.asarray(1e4 * (1 + step % 2 * 1e-3) + normal(shape, step), jnp.float32)
        now = oracles.batch_moments(xs)
        history.append(now)
        ys, state = call(norm, xs, state)
        rule = oracles.exponential_average
        rule = oracles.weighted_average if mode == "batch" else rule
        expected = rule(history, 0.5)
        got = stored(norm, state)
        np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-7)
        np.testing.assert_allclose(got.variance, expected.variance, rtol=1e-3)
        used = now if mode == "batch" else expected
        got, wanted = oracles.to_float64(ys), oracles.batch_norm(xs, used)
        # One unit in the last place of the mean is a thousandth of a deviation.
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("step", [1, 2])
def test_gradients_at_a_mean_of_ten_thousand_standard_deviations(step):
    """They are as exact as the mean is: to a thousandth of their size."""
    norm, state = make_with_state(BatchNorm)(2, "batch")
    xs = jnp.asarray(1e4 + normal((32, 2)), jnp.float32)
    cotangents = jnp.asarray(normal((32, 2), 1), jnp.float32)
    for _ in range(step):
        grad = jax.grad(lambda xs, s: jnp.sum(call(norm, xs, s)[0] * cotangents))
        got = grad(xs, state)
        _, state = call(norm, xs, state)
    expected = oracles.batch_norm_gradients(xs, cotangents, norm.weight, 1e-5).xs
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-3 * np.max(expected))


def test_float64_stays():
    """In 64-bit mode nothing is computed or stored in less than float64."""
    with x64():
        norm, state = make_with_state(BatchNorm)(2, "batch")
        xs = jnp.asarray(1e8 + normal((32, 2)))
        ys, state = call(norm, xs, state)
        expected = oracles.batch_moments(xs)
        got = stored(norm, state)
        assert {ys.dtype, got.mean.dtype, got.variance.dtype} == {jnp.dtype(float)}
        np.testing.assert_allclose(got.variance, expected.variance, rtol=1e-7)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("of_layer", [jnp.float32, jnp.float64])
def test_mixed_precision(of_layer, mode):
    """A layer of one width takes inputs of the other, and keeps its own dtypes."""
    with x64():
        norm, state = make_with_state(BatchNorm)(2, "batch", dtype=of_layer, mode=mode)
        of_input = jnp.float64 if of_layer == jnp.float32 else jnp.float32
        xs = jnp.asarray(normal((32, 2)), of_input)
        for _ in range(2):
            ys, state = call(norm, xs, state)
        assert ys.dtype == of_input
        expected = oracles.batch_moments(xs)
        for got, wanted in zip(stored(norm, state), expected, strict=True):
            assert got.dtype == of_layer
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


def test_a_constant_channel():
    """A variance of 0 gives the bias, a variance of 0 stored, and finite gradients."""
    norm, state = make_with_state(BatchNorm)(2, "batch")
    xs = jnp.full((8, 2, 3), 1234.5)
    ys, state = call(norm, xs, state)
    np.testing.assert_array_equal(ys, 0)
    np.testing.assert_array_equal(stored(norm, state).variance, 0)
    weights = jnp.asarray(normal((8, 2, 3)), float)
    gradient = jax.grad(lambda xs: jnp.sum(call(norm, xs, state)[0] * weights))(xs)
    centered = weights - weights.mean((0, 2), keepdims=True)
    np.testing.assert_allclose(gradient, centered / np.sqrt(1e-5), rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_batch_does_not_spoil_the_next(bad):
    """After NaN or inf the averages are bad, but training goes on with clean batches.

    As in other libraries: in training the output depends on this batch only.
    """
    norm, state = make_with_state(BatchNorm)(2, "batch")
    xs = jnp.asarray(3 + normal((8, 2)), float)
    expected, _ = call(norm, xs, state)
    _, state = call(norm, xs.at[0, 0].set(bad), state)
    assert not jnp.isfinite(stored(norm, state).mean[0])
    ys, _ = call(norm, xs, state)
    np.testing.assert_allclose(ys, expected, rtol=1e-5, atol=1e-5)


def test_momentum_0_forgets_a_bad_batch():
    """With momentum 0 the averages are the last batch's, whatever was before."""
    norm, state = make_with_state(BatchNorm)(2, "batch", momentum=0.0)
    xs = jnp.asarray(normal((8, 2)), float)
    for before in (jnp.full_like(xs, jnp.nan), 1e6 * xs):
        _, after = call(norm, before, state)
        _, after = call(norm, xs, after)
        for got, wanted in zip(
            stored(norm, after), oracles.batch_moments(xs), strict=True
        ):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_more_values_than_int32_counts():
    """A channel may have more than 2**31 values."""
    norm, state = make_with_state(BatchNorm)(1, "batch")
    xs = jax.ShapeDtypeStruct((2**16, 1, 2**17), jnp.float32)
    assert jax.eval_shape(call, norm, xs, state)[0].shape == xs.shape
