"""RunningNorm beside NumPy's moments of everything at once, in float64."""

import copy
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
from vernal import nn
from vernal.errors import (
    AxisNameError,
    HyperparameterError,
    InputError,
    StateValueError,
)
from vernal.nn import RunningNorm, make_with_state
from vernal.nn._running_norm import Moments, merge_moments

SHAPE = (2, 3)
SIZES = [1, 7, 1, 32, 3]
EPS = 1e-8

step = jax.jit(batched)


def draw(size: int, seed: int, shape: Any = SHAPE) -> Any:
    """A batch far from 0, whose mean and scale change from batch to batch."""
    rng = np.random.default_rng(seed)
    return np.float32(1000 + seed + (1 + seed) * rng.normal(size=(size, *shape)))


def moments(xs: Any) -> tuple[Any, Any]:
    xs = oracles.to_float64(xs)
    return xs.mean(0), xs.var(0)


def normalized(xs: Any, mean: Any, variance: Any) -> Any:
    return (oracles.to_float64(xs) - mean) / np.sqrt(variance + EPS)


def build(shape: Any = SHAPE, axis_name: Any = "batch", **kwargs: Any) -> Any:
    return make_with_state(RunningNorm)(shape, axis_name, **kwargs)


def assert_moments(got: Moments, xs: Any, rtol: float = 1e-5) -> None:
    """Count exactly; the others to what they lose as the mean is rounded to float32."""
    mean, variance = moments(xs)
    assert int(got.examples) == len(xs)
    deviation = np.sqrt(variance)
    rounding = 2e-7 * np.abs(mean)
    error = np.abs(oracles.to_float64(got.mean) - mean)
    assert np.all(error <= rtol * deviation + rounding)
    error = np.abs(oracles.to_float64(got.variance) - variance)
    assert np.all(error <= rtol * variance + rounding * deviation)


@pytest.mark.parametrize("dtype, rtol", [("float32", 2e-4), ("float64", 1e-11)])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
def test_uneven_batches(shape, dtype, rtol):
    """After each batch the moments are those of all examples, and so is the output."""
    with x64(dtype == "float64"):
        norm, state = build(shape)
        seen = np.zeros((0, *shape))
        for seed, size in enumerate(SIZES):
            xs = jnp.asarray(draw(size, seed, shape), dtype)
            ys, state = step(norm, xs, state)
            seen = np.concatenate([seen, oracles.to_float64(xs)])
            expected = normalized(xs, *moments(seen))
            assert ys.dtype == dtype
            if len(seen) > 1:  # one alone has no variance
                np.testing.assert_allclose(ys, expected, rtol, 5 * rtol)
                assert_moments(state.get(norm.moments_index), seen, rtol)
            else:
                np.testing.assert_array_equal(ys, jnp.zeros_like(xs))


def test_the_thousandth_step():
    """After a thousand batches whose mean wanders, the moments are still right."""
    norm, state = build()
    noise = np.random.default_rng(0).normal(size=(1000, 3, *SHAPE))
    batches = jnp.asarray(5 + np.cumsum(noise, axis=0), jnp.float32)

    def body(state: Any, xs: Any) -> Any:
        ys, state = batched(norm, xs, state)
        return state, ys

    state, ys = jax.jit(lambda s: jax.lax.scan(body, s, batches))(state)
    seen = oracles.to_float64(batches).reshape(-1, *SHAPE)
    assert_moments(state.get(norm.moments_index), seen)
    expected = normalized(batches[-1], *moments(seen))
    np.testing.assert_allclose(ys[-1], expected, 1e-4, 1e-5)


def test_before_any_data_it_is_the_identity():
    """In inference an untouched layer changes nothing, in every bit."""
    norm, state = build(eps=0.5, inference=True)
    xs = jnp.asarray(draw(4, 0), jnp.float32)
    ys, state = step(norm, xs, state)
    np.testing.assert_array_equal(ys, xs)
    np.testing.assert_array_equal(norm.denormalize(xs[0], state), xs[0])


def test_inference():
    """The flag and the argument leave the state; the output is by what was known."""
    norm, state = build()
    seen, xs = draw(8, 0), draw(4, 1)
    _, state = step(norm, jnp.asarray(seen, jnp.float32), state)
    before = jax.tree.leaves(state)
    given = lambda x, s: norm(x, s, inference=True)  # noqa: E731
    for layer in (vn.nn.inference_mode(norm), given):
        ys, new = batched(layer, jnp.asarray(xs, jnp.float32), state)
        np.testing.assert_allclose(ys, normalized(xs, *moments(seen)), 1e-3, 1e-3)
        for a, b in zip(before, jax.tree.leaves(new), strict=True):
            np.testing.assert_array_equal(a, b)


def test_denormalize():
    """It undoes the normalization."""
    norm, state = build()
    xs = jnp.asarray(draw(8, 0), jnp.float32)
    ys, state = step(norm, xs, state)
    again = jax.vmap(norm.denormalize, (0, None))(ys, state)
    np.testing.assert_allclose(again, xs, 1e-6)


def test_clip():
    """The output stays within the bounds, which some of it reaches."""
    norm, state = build(clip=1.0)
    ys, _ = step(norm, jnp.asarray(draw(64, 0), jnp.float32), state)
    assert float(ys.min()) == -1 and float(ys.max()) == 1


def test_masked_examples_do_not_count():
    """What fills up a batch may be NaN; a batch of nothing else changes nothing."""
    norm, state = build()
    xs, mask = draw(8, 0), np.arange(8) % 3 > 0
    xs[~mask] = np.nan
    axes: Any = {"in_axes": (0, None, 0), "out_axes": (0, None)}
    call = lambda x, s, m: norm(x, s, mask=m)  # noqa: E731
    masked = jax.jit(jax.vmap(call, axis_name="batch", **axes))
    ys, state = masked(jnp.asarray(xs, jnp.float32), state, mask)
    assert_moments(state.get(norm.moments_index), xs[mask])
    expected = normalized(xs[mask], *moments(xs[mask]))
    np.testing.assert_allclose(ys[mask], expected, 1e-3, 1e-3)
    _, same = masked(jnp.asarray(xs, jnp.float32), state, np.zeros(8, bool))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_bad_batch_does_not_count(bad):
    """NaN, infinity or a square that overflows leave the state; the next one counts."""
    norm, state = build()
    good = draw(8, 0)
    _, state = step(norm, jnp.asarray(good, jnp.float32), state)
    spoilt = draw(4, 1)
    spoilt[2, 0, 1] = bad
    ys, state = step(norm, jnp.asarray(spoilt, jnp.float32), state)
    assert_moments(state.get(norm.moments_index), good)
    assert bool(jnp.all(jnp.isfinite(ys[:2])))
    more = draw(4, 2)
    _, state = step(norm, jnp.asarray(more, jnp.float32), state)
    assert_moments(state.get(norm.moments_index), np.concatenate([good, more]))


def test_a_constant_channel_gives_zeros():
    """A value that never changes is normalized to exactly 0, also if it is large."""
    norm, state = build((1,))
    for size in (7, 3, 11):
        ys, state = step(norm, jnp.full((size, 1), 1234.567), state)
        np.testing.assert_array_equal(ys, jnp.zeros((size, 1)))


def test_the_variance_does_not_fade():
    """After 30 million examples, four million more one by one leave it as it is."""
    one = lambda x: jnp.asarray([x], jnp.float32)  # noqa: E731
    start = Moments(jnp.array(2**25, jnp.int32), one(0.0), one(1.0))

    def body(i: Any, known: Moments) -> Moments:
        x = one(1.0) - 2 * (i % 2)
        return merge_moments(known, Moments(jnp.array(1, jnp.int32), x, one(0.0)))

    known = jax.jit(lambda m: jax.lax.fori_loop(0, 2**22, body, m))(start)
    assert int(known.examples) == 2**25 + 2**22
    np.testing.assert_allclose(known.variance, 1, 1e-3)


def test_the_count_stops_at_its_limit():
    """Beyond 2³¹ - 1 examples the count stays, and the moments stay near the truth."""
    norm, state = build((1,))
    top = 2**31 - 1
    one = jnp.ones(1)
    full = Moments(jnp.array(top - 3, jnp.int32), 5 * one, one)
    state = state.set(norm.moments_index, full)
    for _ in range(2):
        _, state = step(norm, jnp.full((4, 1), 4.0), state)
        known = state.get(norm.moments_index)
        assert int(known.examples) == top
        np.testing.assert_allclose([*known.mean, *known.variance], [5, 1], 1e-6)


@pytest.mark.parametrize("sizes", [(5, 3), (0, 4), (4, 0), (0, 0), (1, 1)], ids=str)
def test_workers_are_merged(sizes):
    """Two groups merge to the moments of both together, in either order."""
    parts = []
    for i, size in enumerate(sizes):
        norm, state = build()
        if size:
            _, state = step(norm, jnp.asarray(draw(size, i), jnp.float32), state)
        parts.append(state.get(norm.moments_index))
    seen = np.concatenate([draw(size, i) for i, size in enumerate(sizes)])
    for pair in (parts, parts[::-1]):
        merged = merge_moments(*pair)
        if len(seen):
            assert_moments(merged, seen)
        else:
            assert (int(merged.examples), float(merged.variance[0, 0])) == (0, 1)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    """Values near the end of float16, whose squares it does not have, are normal."""
    norm, state = build((3,))
    xs = jnp.asarray(60000 * np.sin(np.arange(48.0)).reshape(16, 3), dtype)
    ys, state = step(norm, xs, state)
    known = state.get(norm.moments_index)
    assert ys.dtype == dtype and known.variance.dtype == jnp.float32
    assert_moments(known, xs)
    expected = normalized(xs, *moments(xs))
    np.testing.assert_allclose(oracles.to_float64(ys), expected, 0.01, 0.01)
    back = norm.denormalize(ys[0], state)
    assert back.dtype == dtype
    np.testing.assert_allclose(*map(oracles.to_float64, (back, xs[0])), 0, 600)


def test_gradients_take_the_statistics_as_constants():
    """The derivative by an input is 1/σ, of that example alone."""
    norm, state = build((2,))
    xs = jnp.asarray(draw(4, 0, (2,)), jnp.float32)
    weights = jnp.arange(8.0).reshape(4, 2)

    def loss(xs: Any) -> Any:
        ys, new = batched(norm, xs, state)
        known = new.get(norm.moments_index)
        return jnp.sum(weights * ys) + known.mean.sum() + known.variance.sum()

    expected = np.asarray(weights) / np.sqrt(moments(xs)[1] + EPS)
    np.testing.assert_allclose(jax.grad(loss)(xs), expected, 1e-4)


@pytest.mark.parametrize("check", [True, False])
def test_shard_map(check):
    """Over vmap and eight devices the moments are those of all examples."""
    norm, state = build(axis_name=["batch", "d"])
    call = devices.on_devices(batched, check)
    seen = np.zeros((0, *SHAPE))
    for seed in range(3):
        xs = jnp.asarray(draw(16, seed), jnp.float32)
        ys, state = call(norm, xs, state)
        seen = np.concatenate([seen, oracles.to_float64(xs)])
        assert_moments(state.get(norm.moments_index), seen)
        expected = normalized(xs, *moments(seen))
        np.testing.assert_allclose(ys, expected, 1e-3, 1e-3)


@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit])
def test_a_batch_spread_over_devices(types):
    """Under jit alone a batch on eight devices counts as a whole."""
    norm, state = build()
    norm, state = devices.everywhere((norm, state), types)
    xs = jnp.asarray(draw(16, 0), jnp.float32)
    call = jax.jit(lambda norm, xs, state: batched(norm, xs, state))
    ys, state = call(norm, devices.spread(xs, types), state)
    assert len(ys.sharding.device_set) == 8
    assert_moments(state.get(norm.moments_index), xs)


BAD_ARGUMENTS = [
    ("shape", 0),
    ("shape", "2"),
    ("shape", (2, -1)),
    ("axis_name", None),
    ("axis_name", ()),
    ("eps", -1.0),
    ("eps", float("nan")),
    ("clip", 0.0),
    ("clip", float("inf")),
    ("dtype", jnp.int32),
    ("dtype", jnp.complex64),
]


@pytest.mark.parametrize("name, value", BAD_ARGUMENTS, ids=str)
def test_bad_arguments(name, value):
    """Refused when the layer is built; the message names the argument."""
    arguments = {"shape": SHAPE, "axis_name": "batch", name: value}
    with pytest.raises(
        HyperparameterError, match=f"RunningNorm: bad argument `{name}`"
    ):
        RunningNorm(**arguments)


def test_misuse_at_the_call():
    """A batch without vmap, integers, no axis, a wide mask, and a state by example."""
    norm, state = build()
    xs = jnp.zeros((4, *SHAPE))
    with pytest.raises(InputError, match=r"fix: +.*jax.vmap\(layer\)"):
        norm(xs, state)
    with pytest.raises(InputError, match="is not real floating-point"):
        norm(jnp.zeros(SHAPE, int), state)
    with pytest.raises(InputError, match="the second argument is not a State"):
        norm(xs[0], None)
    with pytest.raises(AxisNameError, match="no axis named 'batch'"):
        norm(xs[0], state)
    with pytest.raises(InputError, match="the mask is not a single boolean"):
        norm(xs[0], state, mask=jnp.ones(4, bool))
    axes: Any = {"in_axes": (0, None)}
    _, wrong = jax.vmap(norm, axis_name="batch", **axes)(xs, state)
    with pytest.raises(StateValueError, match="gained an axis"):
        batched(norm, xs, wrong)


def test_states_of_workers_are_merged():
    """`merge_states` gives the moments of all data, also layer by layer in a stack."""
    norm, state = build()
    parts = [draw(size, seed) for seed, size in enumerate(SIZES)]
    states = [step(norm, x, copy.copy(state))[1] for x in parts]
    merged = jax.jit(nn.merge_states)(states).get(norm.moments_index)
    mean, variance = moments(np.concatenate(parts))
    assert int(merged.examples) == sum(SIZES)
    np.testing.assert_allclose(merged.mean, mean, 1e-6)
    np.testing.assert_allclose(merged.variance, variance, 1e-5)
    stacked = [jax.tree.map(lambda x: jnp.stack([x, x]), s) for s in states]
    twice = jax.tree.leaves(nn.merge_states(stacked))
    for a, b in zip(twice, merged, strict=True):
        np.testing.assert_allclose(a, jnp.stack([b, b]), 1e-6)
