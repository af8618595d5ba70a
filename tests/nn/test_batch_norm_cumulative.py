"""BatchNorm with momentum=None: the statistics of all values that it has seen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests import oracles
from tests.nn.test_batch_norm import assert_close, build, draw, stored
from tests.nn.test_batch_norm_masks import call as masked, draw_mask
from tests.world import x64
from vernal.errors import HyperparameterError, StateError
from vernal.nn import BatchNorm, join_state, make_with_state, split_state

# Of another size, mean and scale at each step.
UNEVEN = [(8, 3, 4), (2, 3, 4), (5, 3, 1), (1, 3, 7)]


def call(norm: Any, xs: Any, state: Any) -> Any:
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    return jax.vmap(norm, axis_name="batch", **axes)(xs, state)


def of_all(batches: Any, masks: Any = None, unbiased: bool = False) -> Any:
    """Moments of the values of all batches together."""
    masks = [None] * len(batches) if masks is None else masks
    pairs = zip(batches, masks, strict=True)
    rows = np.concatenate([oracles.by_channel(xs, mask) for xs, mask in pairs], 1)
    moments = oracles.batch_moments(rows.T)
    count = rows.shape[1]
    return (oracles.unbiased(moments, count) if unbiased else moments), count


@pytest.mark.parametrize("unbiased", [False, True])
def test_uneven_batches(unbiased):
    """After each of them, all values so far have equal weight, also across batches."""
    with x64():
        norm, state = build(momentum=None, unbiased=unbiased)
        batches = []
        for step, shape in enumerate(UNEVEN):
            batches.append(draw(shape, step))
            ys, state = call(norm, batches[-1], state)
            expected, count = of_all(batches, None, unbiased)
            assert_close(stored(norm, state), expected, 1e-13)
            assert state.get(norm.batch_counter) == count
            now = oracles.batch_moments(batches[-1])  # biased, and of this batch only
            affine = (norm.weight, norm.bias)
            assert_close(ys, oracles.batch_norm(batches[-1], now, 1e-5, *affine), 1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
def test_masks(unbiased):
    """Only what counts is counted; a batch of nothing changes no bit."""
    with x64():
        norm, state = build(momentum=None, unbiased=unbiased)
        batches, masks = [], []
        for step, shape in enumerate([(8, 3, 4), (4, 3, 2), (5, 3, 3)]):
            batches.append(draw(shape, step))
            masks.append(draw_mask(shape, step))
            nothing = np.zeros_like(masks[-1])
            _, empty = masked(norm, 1e9 + batches[-1], state, nothing)
            assert vn.tree_equal(empty, state)
            _, state = masked(norm, batches[-1], state, masks[-1])
            expected, count = of_all(batches, masks, unbiased)
            assert_close(stored(norm, state), expected, 1e-13)
            assert state.get(norm.batch_counter) == count


def test_a_single_value_counts():
    """It has a mean, if no variance: it is taken in, and not normalized by itself."""
    norm, state = build(momentum=None)
    xs, mask = draw((4, 3)), np.arange(4) < 1
    ys, state = masked(norm, xs, state, mask)
    first, _ = of_all([xs], [mask])
    assert_close(stored(norm, state), first, 1e-6)
    identity = oracles.Moments(np.zeros(3), np.ones(3))
    affine = (norm.weight, norm.bias)
    assert_close(ys, oracles.batch_norm(xs, identity, 1e-5, *affine), 1e-6)
    _, state = masked(norm, draw((4, 3), 1), state, np.full(4, True))
    both, _ = of_all([xs, draw((4, 3), 1)], [mask, np.full(4, True)])
    assert_close(stored(norm, state), both, 1e-6)


def test_many_steps():
    """After 1,000 batches in float32 they are right to a few parts in a million."""
    norm, state = build(momentum=None)
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(1000, 6, 3)) * [1e-3, 1, 1e3] + rng.normal(size=(1000, 1, 3))
    xs = jnp.asarray(xs + 2, jnp.float32)
    mask = rng.random((1000, 6)) > 0.5

    def body(state: Any, batch: Any) -> Any:
        return masked(norm, batch[0], state, batch[1])[1], None

    state, _ = jax.jit(lambda s: jax.lax.scan(body, s, (xs, mask)))(state)
    expected, count = of_all([xs.reshape(-1, 3)], [mask.ravel()])
    for got, wanted in zip(stored(norm, state), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=5e-6)
    assert state.get(norm.batch_counter) == count


@pytest.mark.parametrize("of_layer", [jnp.float16, jnp.float32])
def test_dtypes(of_layer):
    """The number of values is a float of the dtype of the averages, as is all else."""
    norm, state = build(momentum=None, dtype=of_layer)
    for step in range(2):
        ys, state = call(norm, draw((8, 3), step).astype(jnp.float16), state)
    assert ys.dtype == jnp.float16
    leaves = jax.tree.leaves(state)
    assert {x.dtype for x in leaves} == {jnp.dtype(jnp.float32)}
    assert state.get(norm.batch_counter).shape == ()


def test_what_is_stored_has_no_gradient():
    """Neither by the data nor by the old averages and their number."""
    norm, state = build(momentum=None, unbiased=True)
    _, state = call(norm, draw((5, 3)), state)

    def new(xs: Any, old: Any) -> Any:
        return jax.tree.leaves(call(norm, xs, old)[1])

    args = (draw((5, 3), 1), state)
    values, tangents = jax.jvp(new, args, args)
    assert not any(np.any(x) for x in tangents)
    gradients = jax.vjp(new, *args)[1](values)
    assert not any(np.any(x) for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_cumulative(mode):
    """The same layer, parameters and all, that starts anew and weighs values alike."""
    norm = BatchNorm(3, "batch", eps=0.1, mode=mode, unbiased=mode == "batch")
    norm = vn.tree_at(lambda m: m.weight, norm, jnp.arange(3.0))
    norm, state = split_state(vn.nn.inference_mode(norm))
    _, state = call(vn.nn.inference_mode(norm, False), draw((4, 3)), state)
    new, fresh = split_state(join_state(norm, state).cumulative())
    assert not new.inference and new.eps == 0.1 and new.unbiased == norm.unbiased
    _, initial = make_with_state(BatchNorm)(3, "batch", 0.1, momentum=None)
    assert vn.tree_equal(fresh, initial)
    assert jax.tree.structure(fresh) == jax.tree.structure(initial)
    for step in range(2):
        ys, fresh = call(new, draw((4 + step, 3), step), fresh)
        assert jnp.all(ys[:, 0] == 0)  # its weight is 0
    batches = [draw((4, 3)), draw((5, 3), 1)]
    expected, _ = of_all(batches, None, new.unbiased)
    assert_close(stored(new, fresh), expected, 1e-6)
    # What it came from is as it was.
    assert norm.momentum == 0.99 and norm.mode == mode and norm.inference


def test_cumulative_within_a_stack():
    """Stacked layers stay stacked, with as many fresh statistics."""

    def block(key: Any) -> Any:
        return vn.nn.Sequential([vn.nn.Identity(), BatchNorm(3, "batch")])

    stack, state = make_with_state(vn.nn.Stack)(block, 2, key=jax.random.key(0))
    _, state = call(stack, draw((8, 3)), state)
    whole = join_state(stack, state)
    norm = whole.layers.layers[1]
    whole = vn.tree_at(lambda m: m.layers.layers[1], whole, norm.cumulative())
    stack, state = split_state(whole)
    xs = draw((8, 3), 1)
    _, state = call(stack, xs, state)
    running = state.get(stack.layers.layers[1].batch_state_index)
    first = oracles.batch_moments(xs)
    assert running[0].shape == (2, 3)
    assert_close([a[0] for a in running], first, 1e-6)
    second = oracles.batch_moments(oracles.batch_norm(xs, first))
    np.testing.assert_allclose(running[0][1], second.mean, atol=1e-5)
    np.testing.assert_allclose(running[1][1], second.variance, rtol=1e-4)


def test_cumulative_needs_the_state():
    """A layer that was split has no place for fresh statistics; the cure is named."""
    norm, _ = build()
    with pytest.raises(StateError, match="join_state") as caught:
        norm.cumulative()
    assert len(str(caught.value).splitlines()) <= 6


def test_only_in_mode_batch():
    """Normalizing by averages of everything is no mode of training."""
    with pytest.raises(HyperparameterError, match="`momentum`"):
        BatchNorm(3, "batch", momentum=None, mode="ema")
