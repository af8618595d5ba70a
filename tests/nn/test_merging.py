"""Merged running averages, beside sums over all the data in float64."""

import copy
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.world import x64
from vernal import nn

PARTS = [(5, 3, 2), (9, 3, 2), (2, 3, 2)]  # examples, channels, space


def data(seed: int, shape: Any = PARTS) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(3 * i, i + 1, size) for i, size in enumerate(shape)]


def trained(norm: Any, state: nn.State, batches: Any) -> nn.State:
    state = copy.copy(state)
    for xs in batches:
        _, state = nn.batched(norm)(jnp.asarray(xs, jnp.float32), state)
    return state


def moments(norm: Any, state: nn.State) -> Any:
    return state.get(norm.batch_state_index or norm.ema_state_index)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_one_step_each(mode: str) -> None:
    """After one batch each, the result is the moments of all the values together."""
    norm, state = nn.make_with_state(nn.BatchNorm)(3, "batch", mode=mode)
    parts = [x[:5] for x in data(0, [(5, 3, 2)] * 3)]
    merged = nn.merge_states([trained(norm, state, [x]) for x in parts])
    rows = np.concatenate(parts).swapaxes(0, 1).reshape(3, -1)
    mean, variance = moments(norm, merged)
    np.testing.assert_allclose(mean, rows.mean(1), rtol=2e-6)
    np.testing.assert_allclose(variance, rows.var(1), rtol=2e-6)
    if mode == "ema":
        assert not merged.get(norm.ema_first_time_index)
    else:
        assert int(merged.get(norm.batch_counter)) == 1


@pytest.mark.parametrize("momentum", [0, 0.7, 0.999999, 1])
def test_weights_are_those_of_the_running_averages(momentum: float) -> None:
    """A worker weighs what its running average has gathered over its steps."""
    norm, state = nn.make_with_state(nn.BatchNorm)(3, "batch", momentum=momentum)
    runs = [data(1), data(2)[:1], []]
    states = [trained(norm, state, run) for run in runs]
    merged = nn.merge_states(states)
    ages = [[momentum**age for age in range(len(run))][::-1] for run in runs]
    weights = np.array([float(sum(age)) for age in ages])
    weights /= weights.sum()
    each = [np.stack(moments(norm, s)).astype(float) for s in states]
    mean = sum(w * m for w, (m, _) in zip(weights, each, strict=True))
    square = sum(w * (v + m**2) for w, (m, v) in zip(weights, each, strict=True))
    np.testing.assert_allclose(moments(norm, merged)[0], mean, rtol=1e-5)
    np.testing.assert_allclose(moments(norm, merged)[1], square - mean**2, rtol=1e-5)
    assert int(merged.get(norm.batch_counter)) == (4 if momentum == 1 else 3)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_states_at_the_start(mode: str) -> None:
    """Fresh states give a fresh state, and do not count beside a trained one."""
    norm, state = nn.make_with_state(nn.BatchNorm)(3, "batch", mode=mode)
    fresh = nn.merge_states([state, state])
    for a, b in zip(jax.tree.leaves(fresh), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    one = trained(norm, state, data(3)[1:2])
    both = nn.merge_states([state, one])
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_far_from_zero() -> None:
    """Nothing cancels where the means are large beside the deviations."""
    norm, state = nn.make_with_state(nn.BatchNorm)(1, "batch")
    parts = [np.array([[1e4], [1e4 + 1]]), np.array([[1e4 + 2], [1e4 + 3]])]
    merged = nn.merge_states([trained(norm, state, [x]) for x in parts])
    np.testing.assert_allclose(moments(norm, merged)[1], [1.25], rtol=1e-5)


def test_in_stacks_and_under_transformations() -> None:
    """States of stacked layers merge layer by layer; jit and x64 change nothing."""

    def block(key: Any) -> Any:
        return nn.BatchNorm(3, "batch")

    make = nn.make_with_state(nn.Stack)
    stack, state = make(block, 2, key=jax.random.key(0))
    runs = [data(4), data(5)[:2]]
    states = [trained(stack, state, run) for run in runs]
    merged = jax.jit(nn.merge_states)(states)
    single, single_state = nn.make_with_state(nn.BatchNorm)(3, "batch")
    apart = [trained(single, single_state, run) for run in runs]
    want = moments(single, nn.merge_states(apart))
    for got, expected in zip(moments(stack.layers, _first(merged)), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    with x64():
        norm, state = nn.make_with_state(nn.BatchNorm)(3, "batch")
        merged = nn.merge_states([state, state])
        assert {x.dtype for x in moments(norm, merged)} == {jnp.dtype("float64")}


def _first(state: nn.State) -> nn.State:
    return jax.tree.map(lambda x: x[0], state)


def test_spectral_norm_keeps_the_first() -> None:
    """Singular vectors are a start for the iteration: those of any state will do."""
    key = jax.random.key(0)
    linear = nn.Linear(3, 4, key=key)
    layer, state = nn.make_with_state(nn.SpectralNorm)(linear, "weight", key=key)
    call = functools.partial(layer, jnp.ones(3))
    _, after = call(copy.copy(state))
    merged = nn.merge_states([after, state])
    for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)
