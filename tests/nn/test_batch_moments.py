"""The moments of a batch on named axes: one pass, one collective, any guess."""

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
from vernal.nn import _batch_moments


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def total(names: tuple[str, ...]) -> Any:
    return functools.partial(_batch_moments.sum_over, names=names)


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
    one = lambda x: _batch_moments.batch_moments(x, ("batch",), guess)[:2]  # noqa: E731
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
    """Right in both modes and to second order, after one pass as after more."""
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
    "far off": (5.0, 1.0, 200.0, 2),
    "no guess, a large mean": (1e4, 1.0, 0.0, 2),
    "another constant": (5.0, 0.0, 4.0, 2),
    "absurd": (5.0, 1.0, 1e18, 3),
    "not a number": (np.nan, 1.0, 0.0, 1),
    "infinite": (np.inf, 1.0, 0.0, 1),
}


@pytest.mark.parametrize("mean, std, guess, expected", PASSES.values(), ids=PASSES)
def test_passes_over_the_data(mean, std, guess, expected, monkeypatch):
    """One with a guess that is good enough; else more, from better and better ones."""
    passes = passes_over(mean + std * normal(32, 1), guess, monkeypatch)
    assert passes == expected


def test_passes_end(monkeypatch):
    """There is a limit, for numbers that would go on for ever."""
    monkeypatch.setattr(_batch_moments, "_MOST_PASSES", 2)
    assert passes_over(normal(32, 1), 1e18, monkeypatch) == 2


def passes_over(xs: Any, guess: float, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the data are read to find their moments."""
    passes = 0
    averages = _batch_moments._averages

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        return averages(*args, **kwargs)

    monkeypatch.setattr(_batch_moments, "_averages", counting)
    with jax.disable_jit():  # so that only what is needed runs
        batch_moments(xs, jnp.array([guess]))
    return passes - 1  # without that of which only derivatives are used


@pytest.mark.parametrize("constant", [1e18, -1e25, 1e37])
def test_squares_beyond_the_largest_number(constant):
    """A first pass that overflows is of no consequence, nor for the derivatives."""
    xs = jnp.full((4, 1), constant)
    (mean, variance), pull = jax.vjp(lambda xs: batch_moments(xs, jnp.zeros(1)), xs)
    np.testing.assert_allclose(mean, constant, rtol=1e-5)
    assert variance <= (1e-5 * constant) ** 2
    np.testing.assert_allclose(pull((jnp.ones(1), jnp.zeros(1)))[0], 0.25)


@pytest.mark.parametrize("guess", [0.0, 900.0, 1e6])
def test_derivatives_are_taken_about_the_mean(guess):
    """They are as exact after a bad guess as after a good one."""
    xs = normal(16, 3) + 1000
    grads = jax.grad(lambda xs: batch_moments(xs, jnp.full(3, guess))[1].sum())(xs)
    wide = np.asarray(xs, np.float64)
    expected = 2 / 16 * (wide - wide.mean(0))
    np.testing.assert_allclose(grads, expected, atol=1e-5)


def masked_moments(xs: Any, mask: Any, groups: Any = None) -> Any:
    """Of a batch with a mask for each example."""

    def one(x: Any, mask: Any) -> Any:
        guess = jnp.ones(x.shape[0])
        return _batch_moments.batch_moments(x, ("batch",), guess, mask, groups)

    return jax.vmap(one, axis_name="batch", out_axes=None)(xs, mask)


def test_masked_moments():
    """Of the values that count, whose number is the same for all channels."""
    xs, mask = normal(6, 3, 4), np.random.default_rng(1).random((6, 4)) > 0.5
    got = masked_moments(xs, mask)
    expected = oracles.batch_moments(xs, mask)
    np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.variance, expected.variance, rtol=1e-5)
    np.testing.assert_array_equal(got.number, [mask.sum()] * 3)


def test_moments_of_nothing():
    """The mean is finite, the variance 0, and there was no division by the number."""
    got = masked_moments(normal(6, 3, 4), jnp.zeros((6, 4), bool))
    np.testing.assert_array_equal(got.mean, 1)
    np.testing.assert_array_equal(got.variance, 0)
    np.testing.assert_array_equal(got.number, 0)


def test_moments_of_groups():
    """A row for each group, in their order; each example has all of them."""
    xs, groups = normal(6, 3, 4), ((4, 0, 1), (5, 2, 3))
    got = masked_moments(xs, None, groups)
    for row, members in enumerate(groups):
        expected = oracles.batch_moments(xs[np.array(members)])
        np.testing.assert_allclose(got.mean[row], expected.mean, rtol=1e-5)
        np.testing.assert_allclose(got.variance[row], expected.variance, rtol=1e-5)
    np.testing.assert_array_equal(got.number, np.full((2, 3), 12))


def test_the_group_of_an_example():
    """Groups are of positions on the last name."""
    groups = ((2, 0), (1,))

    def one(_: Any) -> Any:
        return _batch_moments.group_of(groups, ("other", "batch"))

    got = jax.vmap(one, axis_name="batch")(jnp.zeros(3))
    np.testing.assert_array_equal(got, [0, 1, 0])


@pytest.mark.parametrize("has_mask", [False, True])
def test_moments_of_a_whole_batch(has_mask):
    """In one array, with the number as a float where it is known."""
    xs, mask = normal(6, 3, 4), np.random.default_rng(1).random((6, 4)) > 0.5
    mask = mask if has_mask else None
    got = _batch_moments.whole_batch_moments(xs, jnp.ones(3), mask)
    expected = oracles.batch_moments(xs, mask)
    np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.variance, expected.variance, rtol=1e-5)
    assert has_mask or (got.number == 24 and isinstance(got.number, float))
