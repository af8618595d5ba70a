"""The arithmetic that layers share, as functions of arrays."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from jax.test_util import check_grads

from tests import oracles
from tests.world import x64
from vernal.nn import BatchNorm, Linear, SpectralNorm, _numerics, make_with_state


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


def total(names: tuple[str, ...]) -> Any:
    return functools.partial(_numerics.sum_over, names=names)


def test_sum_over_an_axis_of_vmap():
    """A plain sum, which counts what is not mapped once for each position."""
    x = normal(4, 3)
    got = jax.vmap(total(("a",)), axis_name="a", out_axes=None)(x)
    np.testing.assert_allclose(got, x.sum(0), rtol=1e-6)
    fixed = jax.vmap(lambda _: total(("a",))(x[0]), axis_name="a", out_axes=None)(x)
    np.testing.assert_allclose(fixed, 4 * x[0], rtol=1e-6)


@pytest.mark.parametrize("check", [True, False])
def test_sum_over_vmap_inside_of_shard_map(check):
    """Names of both kinds, with gradients, under an ensemble, and of fixed values."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("d", "e"))
    split = P(("d", "e"))
    x, w = normal(16, 3, 2), normal(16, 3, 2, seed=1)

    def one(x: Any, w: Any) -> Any:
        names = ("d", "batch", "e")
        members = jax.vmap(total(names), in_axes=-1, out_axes=-1)(x)
        count = total(names)(jnp.ones(()))
        return jnp.sum(jnp.sin(members) * w), (members, count)

    def device(x: Any, w: Any) -> Any:
        batched = jax.vmap(one, axis_name="batch", out_axes=(0, None))
        loss, aux = batched(x, w)
        return loss, aux

    mapped = jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(split, split),
        out_specs=(split, P()),
        check_vma=check,
    )

    def loss(x: Any) -> Any:
        losses, aux = mapped(x, w)
        return losses.sum(), aux

    grads, (members, count) = jax.jit(jax.grad(loss, has_aux=True))(x)
    np.testing.assert_allclose(members, x.sum(0), rtol=1e-5)
    assert count == 16
    expected = jnp.cos(x.sum(0)) * w.sum(0)
    np.testing.assert_allclose(grads, np.broadcast_to(expected, x.shape), rtol=1e-5)


def test_sum_over_a_batch_on_explicit_axes():
    """On a mesh with explicit axes, where JAX's own psum over vmap fails."""
    mesh = Mesh(np.array(jax.devices()), ("d",), axis_types=(AxisType.Explicit,))
    x = jax.device_put(normal(16, 3), NamedSharding(mesh, P("d")))
    got = jax.jit(jax.vmap(total(("a",)), axis_name="a", out_axes=None))(x)
    np.testing.assert_allclose(got, np.asarray(x).sum(0), rtol=1e-5)


def batch_moments(xs: Any, guess: Any) -> Any:
    """Of a whole batch."""
    one = lambda x: _numerics.batch_moments(x, ("batch",), guess)  # noqa: E731
    return jax.vmap(one, axis_name="batch", out_axes=None)(xs)


GUESSES = [0.0, 3.0, -50.0, 1e3, 1e9, -1e25, np.inf, np.nan]


@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize("offset", [0.0, 3.0, 1e4])
def test_batch_moments_do_not_depend_on_the_guess(offset, guess):
    """Whatever the guess, the moments are right; one good channel does not hide bad.

    That is 1e-3 where the mean is 10,000 deviations, and else nearly full precision.
    """
    xs = normal(32, 3, 4) + offset
    guesses = jnp.array([guess, offset, guess])
    got = batch_moments(xs, guesses)
    expected = oracles.batch_moments(xs)
    rtol = 1e-3 if offset == 1e4 else 2e-5
    np.testing.assert_allclose(got[1], expected.variance, rtol=rtol)
    np.testing.assert_allclose(got[0], expected.mean, rtol=1e-6, atol=1e-6)


def test_batch_moments_of_other_batch_sizes():
    """What is compiled for one batch size is not taken for another."""
    for examples in (4, 8, 4):
        xs = normal(examples, 3)
        got = batch_moments(xs, jnp.zeros(3))
        np.testing.assert_allclose(got, oracles.batch_moments(xs), rtol=1e-5)


@pytest.mark.parametrize("guess", [0.0, 0.9, 40.0, 1e3, np.nan])
def test_derivatives_of_batch_moments(guess):
    """Right in both modes and to second order, after one pass as after two."""
    with x64():
        guesses = jnp.full(3, guess)
        check_grads(lambda xs: batch_moments(xs, guesses), (normal(4, 3, 2),), 2)


def test_the_guess_has_no_derivative():
    """The moments do not depend on the guess, and their derivatives say so."""
    xs = normal(8, 3)
    pull = jax.grad(lambda guess: sum(map(jnp.sum, batch_moments(xs, guess))))
    np.testing.assert_array_equal(pull(jnp.ones(3)), 0)
    np.testing.assert_array_equal(pull(jnp.full(3, 1e5)), 0)


@pytest.mark.parametrize("constant", [0.0, 1.1, -1234.5678])
def test_a_constant_channel(constant):
    """Its variance is 0 to what the mean resolves, and never negative."""
    xs = jnp.full((8, 1, 5), constant)
    mean, variance = batch_moments(xs, jnp.array([constant * (1 + 3e-6)]))
    np.testing.assert_allclose(mean, constant, rtol=1e-6)
    np.testing.assert_allclose(variance, 0, atol=(1e-6 * constant) ** 2)
    assert variance >= 0


PASSES = {
    "a running mean": (5.0, 1.0, 4.9, 1),
    "no guess, usual data": (2.0, 1.0, 0.0, 1),
    "a constant channel": (5.0, 0.0, 5.0 * (1 + 3e-6), 1),
    "far off": (5.0, 1.0, 200.0, 3),
    "no guess, a large mean": (1e4, 1.0, 0.0, 3),
    "another constant": (5.0, 0.0, 4.0, 3),
}


@pytest.mark.parametrize("mean, std, guess, expected", PASSES.values(), ids=PASSES)
def test_passes_over_the_data(mean, std, guess, expected, monkeypatch):
    """One with a guess that is good enough; else two more, with a better guess."""
    passes = 0
    about = _numerics._moments_about

    def counting(*args: Any) -> Any:
        nonlocal passes
        passes += 1
        return about(*args)

    monkeypatch.setattr(_numerics, "_moments_about", counting)
    with jax.disable_jit():  # so that only the branch that is taken runs
        batch_moments(mean + std * normal(32, 1), jnp.array([guess]))
    assert passes == expected


MOMENTA = [0.0, 1e-300, 0.1, 0.9, 0.99, 0.999999, 1.0]


@pytest.mark.parametrize("momentum", MOMENTA)
def test_running_rate(momentum):
    """The weight of the newest of t values with weights momentum**age; 1 at t = 1."""
    counts = np.array([1, 2, 3, 10, 1000, 2**31 - 1])
    got = _numerics.running_rate(jnp.asarray(counts), momentum, jnp.dtype("float32"))
    got = np.broadcast_to(got, counts.shape)
    for count, rate in zip(counts[:-1], got[:-1], strict=True):
        expected = 1 / np.power(momentum, np.arange(count)).sum()
        np.testing.assert_allclose(rate, expected, rtol=2e-6)
    assert got[0] == 1
    np.testing.assert_allclose(got[-1], max(1 - momentum, 0.5**31), rtol=2e-6)


def test_blend():
    """Linear in the rate; exactly the new value at rate 1, even if the old is NaN."""
    old = jnp.array([1.0, 1e8, np.nan, np.inf])
    new = jnp.array([1e-9, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(_numerics.blend(old, new, jnp.array(1.0)), new)
    got = _numerics.blend(jnp.array(2.0), jnp.array(4.0), jnp.array(0.25))
    assert got == 2.5
    np.testing.assert_array_equal(_numerics.blend(new, new, jnp.array(0.3)), new)


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


def test_nothing_is_compiled_apart_under_jit():
    """Within a jitted function they leave only their own operations."""
    norm, state = make_with_state(BatchNorm)(3, "batch")
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    step = jax.vmap(norm, axis_name="batch", **axes)
    jaxpr = str(jax.make_jaxpr(step)(jnp.ones((4, 3)), state))
    assert "batch_moments" not in jaxpr and "cond[" in jaxpr
