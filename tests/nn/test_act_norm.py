"""ActNorm beside NumPy's formula, and its log-determinant beside the Jacobian's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import vernal as vn
from tests import oracles
from tests.nn import devices
from tests.nn.devices import batched
from tests.world import x64
from vernal.errors import AxisNameError, HyperparameterError, InputError
from vernal.nn import ActNorm, make_with_state

CHANNELS = 3
LOG_SCALE, BIAS = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.0, -3.0])

step = jax.jit(batched)


def draw(seed: int, size: int = 8, spatial: Any = (2, 2), dtype: Any = float) -> Any:
    """A batch whose channels differ in mean and scale."""
    noise = np.random.default_rng(seed).normal(size=(size, CHANNELS, *spatial))
    wide = (1, CHANNELS, *[1] * len(spatial))
    scale, shift = np.array([0.01, 1, 50]), np.array([5.0, seed, 1000])
    return jnp.asarray(noise * scale.reshape(wide) + shift.reshape(wide), dtype)


def build(axis_name: Any = "batch", trained: bool = False, **kwargs: Any) -> Any:
    norm, state = make_with_state(ActNorm)(CHANNELS, axis_name, **kwargs)
    if trained:
        new = tuple(jnp.asarray(a, norm.bias.dtype) for a in (LOG_SCALE, BIAS))
        norm = vn.tree_at(lambda m: (m.log_scale, m.bias), norm, new)
    return norm, state


def formula(xs: Any, first: Any, log_scale: Any = 0.0, bias: Any = 0.0) -> Any:
    """The batch ``xs`` after ``first`` has fixed the statistics, in float64."""
    xs, moments = oracles.to_float64(xs), oracles.batch_moments(first)
    weight = np.exp(log_scale) * np.ones(CHANNELS)
    return oracles.batch_norm(xs, moments, 0.0, weight, bias * np.ones(CHANNELS))


def assert_same(a: Any, b: Any) -> None:
    """Equal in every bit."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-4), ("float64", 1e-11)])
@pytest.mark.parametrize("spatial", [(), (5,), (2, 2)], ids=str)
def test_the_first_batch_and_the_thousandth(spatial, dtype, rtol):
    """The first batch has mean 0 and variance 1; all others are scaled as it was."""
    with x64(dtype == "float64"):
        norm, state = build()
        first, second = (draw(i, spatial=spatial, dtype=dtype) for i in range(2))
        ys, state = step(norm, first, state)
        assert ys.dtype == dtype
        np.testing.assert_allclose(ys, formula(first, first), rtol, 50 * rtol)
        after = jax.tree.leaves(state)
        body = lambda _, state: batched(norm, second, state)[1]  # noqa: E731
        state = jax.jit(lambda s: jax.lax.fori_loop(0, 1000, body, s))(state)
        assert_same(state, after)
        norm, _ = build(trained=True)
        ys, _ = step(norm, second, state)
        expected = formula(second, first, LOG_SCALE, BIAS)
        np.testing.assert_allclose(ys, expected, rtol, 300 * rtol)


def test_inference():
    """Before training it is the identity with the parameters; it fixes nothing."""
    norm, state = build(inference=True)
    xs = draw(0)
    ys, state = step(norm, xs, state)
    np.testing.assert_array_equal(ys, xs)
    assert not state.get(norm.start_index).is_known
    ys, state = step(vn.nn.inference_mode(norm, False), xs, state)
    assert state.get(norm.start_index).is_known
    given = lambda x, s: norm(x, s, inference=True)  # noqa: E731
    later = draw(1)
    ys, new = batched(given, later, state)
    np.testing.assert_allclose(ys, formula(later, xs), 1e-3, 1e-3)
    assert_same(new, state)


def test_inverse():
    """It undoes the call, and has the opposite log-determinant."""
    norm, state = build(trained=True)
    forward = jax.vmap(
        norm.forward_and_log_det, (0, None), (0, None), axis_name="batch"
    )
    xs = draw(0)
    (ys, log_dets), state = forward(xs, state)
    back, inverse_log_dets = jax.vmap(norm.inverse_and_log_det, (0, None))(ys, state)
    np.testing.assert_allclose(back, xs, 1e-4, 1e-4)
    np.testing.assert_array_equal(inverse_log_dets, -log_dets)
    np.testing.assert_array_equal(norm.inverse(ys[0], state), back[0])


@pytest.mark.parametrize("spatial", [(), (5,), (2, 2)], ids=str)
def test_log_determinant(spatial):
    """At the first step and later it is that of the Jacobian of one example."""

    def flat(x: Any, norm: Any, state: Any) -> Any:
        return norm(x.reshape(CHANNELS, *spatial), state, inference=True)[0].ravel()

    with x64():
        norm, state = build(trained=True)
        forward = jax.vmap(
            norm.forward_and_log_det, (0, None), (0, None), axis_name="batch"
        )
        for seed in range(2):
            xs = draw(seed, spatial=spatial)
            (_, log_dets), state = forward(xs, state)
            jacobian = jax.jacobian(flat)(xs[0].ravel(), norm, state)
            sign, expected = np.linalg.slogdet(jacobian)
            assert sign == 1 and log_dets.shape == (8,)
            np.testing.assert_allclose(log_dets, expected, 1e-10)


def test_gradients():
    """Statistics are constants: of the input σ⁻¹ eˢ, also at the first step."""
    with x64():
        norm, state = build(trained=True)
        xs, weights = draw(0), draw(1)

        def loss(norm: Any, xs: Any, state: Any) -> Any:
            ys, state = batched(norm, xs, state)
            start = state.get(norm.start_index)
            kept = start.mean.sum() + start.deviation.sum()
            return jnp.sum(weights * ys) + kept, state

        deviation = np.sqrt(oracles.batch_moments(xs).variance)
        factor = (np.exp(LOG_SCALE) / deviation).reshape(1, -1, 1, 1)
        centered = formula(xs, xs, LOG_SCALE)
        for _ in range(2):
            grads, state = jax.grad(loss, (0, 1), has_aux=True)(norm, xs, state)
            np.testing.assert_allclose(grads[1], np.asarray(weights) * factor, 1e-9)
            by_bias = np.asarray(weights).sum((0, 2, 3))
            np.testing.assert_allclose(grads[0].bias, by_bias, 1e-9)
            by_scale = (np.asarray(weights) * centered).sum((0, 2, 3))
            np.testing.assert_allclose(grads[0].log_scale, by_scale, 1e-7)


def test_a_constant_channel_is_only_shifted():
    """Where the first batch does not vary, nothing is known of the scale."""
    norm, state = build()
    xs = draw(0).at[:, 1].set(7.0)
    ys, state = step(norm, xs, state)
    np.testing.assert_array_equal(ys[:, 1], jnp.zeros((8, 2, 2)))
    assert float(state.get(norm.start_index).deviation[1]) == 1
    others = np.delete(np.asarray(xs), 1, axis=1)
    expected = oracles.batch_norm(others, oracles.batch_moments(others), 0.0)
    np.testing.assert_allclose(np.delete(ys, 1, axis=1), expected, 1e-3, 1e-2)
    ys, _ = step(norm, xs.at[:, 1].set(9.0), state)
    np.testing.assert_array_equal(ys[:, 1], jnp.full((8, 2, 2), 2.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_first_batch_fixes_nothing(bad):
    """What is not finite is passed on, and the next batch counts as the first."""
    norm, state = build()
    spoilt, good = draw(0).at[3, 1, 0, 0].set(bad), draw(1)
    ys, state = step(norm, spoilt, state)
    np.testing.assert_array_equal(ys, spoilt)
    ys, state = step(norm, good, state)
    np.testing.assert_allclose(ys, formula(good, good), 1e-3, 1e-2)
    again, _ = step(norm, spoilt, state)
    np.testing.assert_allclose(again[0], formula(spoilt, good)[0], 1e-3, 1e-2)


def test_a_single_value_fixes_nothing():
    """One example without spatial axes has no variance; two of them have."""
    norm, state = build()
    xs = draw(0, 2, ())
    y, state = step(norm, xs[:1], state)
    np.testing.assert_array_equal(y, xs[:1])
    ys, _ = step(norm, xs, state)
    np.testing.assert_allclose(np.abs(ys), np.ones((2, CHANNELS)), 1e-2)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    """At the end of float16 too, statistics and log-determinant are in float32."""
    norm, state = build(dtype=dtype)
    xs = jnp.asarray(60000 * np.sin(np.arange(96.0)).reshape(8, CHANNELS, 4), dtype)
    call = jax.vmap(norm.forward_and_log_det, (0, None), (0, None), axis_name="batch")
    (ys, log_dets), state = call(xs, state)
    start = state.get(norm.start_index)
    assert (ys.dtype, norm.bias.dtype) == (dtype, dtype)
    assert (log_dets.dtype, start.mean.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(oracles.to_float64(ys), formula(xs, xs), 0.01, 0.01)
    expected = -4 * np.log(oracles.batch_moments(xs).variance).sum() / 2
    np.testing.assert_allclose(log_dets, expected, 1e-4)
    back = oracles.to_float64(norm.inverse(ys[0], state))
    np.testing.assert_allclose(back, oracles.to_float64(xs[0]), 0.02, 300)


@pytest.mark.parametrize("check", [True, False])
def test_shard_map(check):
    """Over vmap and eight devices the first batch is normalized as a whole."""
    norm, state = build(["batch", "d"])
    call = devices.on_devices(batched, check)
    first, second = draw(0, 16), draw(1, 16)
    ys, state = call(norm, first, state)
    np.testing.assert_allclose(ys, formula(first, first), 1e-3, 1e-2)
    ys, _ = call(norm, second, state)
    np.testing.assert_allclose(ys, formula(second, first), 1e-3, 1e-1)


@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit])
def test_a_batch_spread_over_devices(types):
    """Under jit alone a batch on eight devices counts as a whole."""
    norm, state = devices.everywhere(build(), types)
    first = draw(0, 16)
    call = jax.jit(lambda norm, xs, state: batched(norm, xs, state))
    ys, _ = call(norm, devices.spread(first, types), state)
    assert len(ys.sharding.device_set) == 8
    np.testing.assert_allclose(ys, formula(first, first), 1e-3, 1e-2)


BAD_ARGUMENTS = [
    ("input_size", 0),
    ("input_size", 2.0),
    ("axis_name", None),
    ("axis_name", 0),
    ("eps", -1.0),
    ("eps", "1"),
    ("dtype", jnp.int32),
    ("dtype", jnp.complex64),
]


@pytest.mark.parametrize("name, value", BAD_ARGUMENTS, ids=str)
def test_bad_arguments(name, value):
    """Refused when the layer is built; the message names the argument."""
    arguments = {"input_size": 2, "axis_name": "batch", name: value}
    with pytest.raises(HyperparameterError, match=f"ActNorm: bad argument `{name}`"):
        ActNorm(**arguments)


def test_misuse_at_the_call():
    """Wrong channels, integers, no state and no axis, in the call and the inverse."""
    norm, state = build()
    x = jnp.zeros((CHANNELS, 2))
    for method in (norm, norm.inverse):
        with pytest.raises(InputError, match="ActNorm: the input has the wrong shape"):
            method(jnp.zeros((8, CHANNELS)), state)
        with pytest.raises(InputError, match="is not real floating-point"):
            method(x.astype(int), state)
        with pytest.raises(InputError, match="the second argument is not a State"):
            method(x, None)
    with pytest.raises(AxisNameError, match="no axis named 'batch'"):
        norm(x, state)
