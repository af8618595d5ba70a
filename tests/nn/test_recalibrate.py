"""Recalibrated statistics beside those of all the data at once, in float64."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counter, refuses
from vernal import nn
from vernal.errors import ForeignStateError, InputError, StateError, TreeError

DATA = np.random.default_rng(0).normal(3, 2, (23, 3)).astype(np.float32)
DATA[:9] *= 5  # batches differ in mean and variance
BATCHES = [DATA[:9], DATA[9:21], DATA[21:]]  # uneven ones


def moments_of(values: np.ndarray) -> Any:
    wide = values.astype(np.float64)
    return wide.mean(0), wide.var(0)


def assert_moments(norm: Any, state: Any, want: Any, rtol: float = 2e-6) -> None:
    got = state.get(norm.ema_state_index or norm.batch_state_index)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol)


@pytest.mark.parametrize("options", [{}, {"mode": "ema"}, {"momentum": None}], ids=str)
def test_exact_over_uneven_batches(options: Any) -> None:
    """The moments are those of all values; training goes on from them."""
    norm, state = nn.make_with_state(nn.BatchNorm)(3, "batch", **options)
    _, trained = nn.batched(norm)(jnp.ones((4, 3)) * 100, copy.copy(state))
    for start in (state, trained):
        new = nn.recalibrate(norm, start, BATCHES)
        assert_moments(norm, new, moments_of(DATA))
        assert start._values is not None and new._layout == start._layout
    if options.get("mode") == "ema":
        assert not new.get(norm.ema_first_time_index)
    else:
        count = 23.0 if options else 3
        assert new.get(norm.batch_counter) == count
        assert new.get(norm.batch_counter).dtype == state.get(norm.batch_counter).dtype


@pytest.mark.parametrize("kind", [nn.BatchNorm, nn.BatchRenorm])
def test_norms_of_each_kind(kind: Any) -> None:
    """Each norm that keeps moments of batches has them computed, and merged."""
    norm, state = nn.make_with_state(kind)(3, "batch")
    new = nn.recalibrate(norm, state, BATCHES)
    moments = new.get(norm.batch_state_index)
    for a, b in zip(moments, moments_of(DATA), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6)
    halves = [nn.recalibrate(norm, state, [x]) for x in (DATA[:10], DATA[10:20])]
    merged = nn.merge_states(halves).get(norm.batch_state_index)
    for a, b in zip(merged, moments_of(DATA[:20]), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6)


class Net(vn.Module):
    """Norms at several depths; a counter and layers that differ in training."""

    first: nn.BatchNorm
    inner: nn.Sequential
    counter: Counter
    dropout: nn.Dropout

    def __init__(self, key: Any) -> None:
        self.first = nn.BatchNorm(3, "batch")
        linear = nn.SpectralNorm(nn.Linear(3, 4, key=key), "weight", key=key)
        self.inner = nn.Sequential([linear, nn.BatchNorm(4, "batch")])
        self.counter = Counter(0)
        self.dropout = nn.Dropout(0.5)

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.first(x, state)
        _, state = self.counter(jnp.array(0), state)
        return self.inner(self.dropout(x), state)


def test_a_whole_model() -> None:
    """Deeper norms see batches normalized as in training; nothing else is touched."""
    net, state = nn.make_with_state(Net)(jr.key(0))
    new = nn.recalibrate(net, state, BATCHES)
    linear, norm = net.inner.layers
    normalized = [(x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in BATCHES]
    plain, _ = nn.inference_mode(linear)(jnp.zeros(3), state)
    rows, _ = jax.vmap(
        nn.inference_mode(linear), in_axes=(0, None), out_axes=(0, None)
    )(jnp.asarray(np.concatenate(normalized)), state)
    assert plain.shape == (4,)
    assert_moments(net.first, new, moments_of(DATA))
    assert_moments(norm, new, moments_of(np.asarray(rows)), 1e-4)
    for part in (linear, net.dropout):
        old, now = (jax.tree.leaves(s.substate(part)) for s in (state, new))
        assert all(np.array_equal(a, b) for a, b in zip(old, now, strict=True))
    assert int(new.get(net.counter.index)) == 0  # counts calls, and is no statistics


def test_some_of_the_norms() -> None:
    """Norms that are not meant keep their statistics, and normalize by them."""
    net, state = nn.make_with_state(Net)(jr.key(0))
    _, norm = net.inner.layers
    new = nn.recalibrate(net, state, BATCHES, where=lambda m: m.first)
    assert int(new.get(norm.batch_counter)) == 0
    assert_moments(net.first, new, moments_of(DATA))
    with_inner = nn.recalibrate(net, state, BATCHES, where="inner*")
    assert int(with_inner.get(net.first.batch_counter)) == 0
    assert int(with_inner.get(norm.batch_counter)) == 3
    first, _ = nn.inference_mode(net.first)(jnp.asarray(DATA[0]), state)
    np.testing.assert_allclose(first, DATA[0] / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_frozen_norms_stay() -> None:
    """What is frozen is used as it is, and is not computed anew."""
    net, state = nn.make_with_state(Net)(jr.key(0))
    frozen, state = nn.freeze(net, state, lambda m: m.first)
    new = nn.recalibrate(frozen, state, BATCHES)
    assert int(new.get(net.first.batch_counter)) == 0
    assert int(new.get(net.inner.layers[1].batch_counter)) == 3
    with refuses(StateError, "recalibrate: there are no running statistics", "frozen"):
        nn.recalibrate(*nn.freeze(net, state, nn.BatchNorm), BATCHES)


def test_a_shared_norm_and_one_never_called() -> None:
    """A norm at two places sees both; one that is not called keeps what it has."""

    class Twice(vn.Module):
        one: nn.BatchNorm
        two: nn.BatchNorm
        unused: nn.BatchNorm

        def __init__(self) -> None:
            self.one = self.two = nn.BatchNorm(3, "batch")
            self.unused = nn.BatchNorm(3, "batch")

        def __call__(self, x: Any, state: Any) -> Any:
            _, state = self.one(x, state)
            return self.two(2 * x, state)

    net, state = nn.make_with_state(Twice)()
    _, state = nn.batched(net)(jnp.asarray(DATA), state)
    state = state.set(net.unused.batch_counter, 5)
    seen = (jnp.ones(3), jnp.full(3, 2.0))
    state = state.set(net.unused.batch_state_index, seen)
    new = nn.recalibrate(net, state, BATCHES)
    assert_moments(net.one, new, moments_of(np.concatenate([DATA, 2 * DATA])))
    assert int(new.get(net.unused.batch_counter)) == 5
    assert vn.tree_equal(new.get(net.unused.batch_state_index), seen)


def test_in_stacks_and_ensembles() -> None:
    """Each layer of a stack and each member of an ensemble has its own statistics."""

    def block(key: Any) -> Any:
        scale = nn.Linear(3, 3, use_bias=False, key=key)
        return nn.Sequential([scale, nn.BatchNorm(3, "batch")])

    for kind in (nn.Ensemble, nn.Stack):
        model, state = nn.make_with_state(kind)(block, 2, key=jr.key(1))
        new = nn.recalibrate(model, state, BATCHES)
        first = model[0].layers[0].weight
        mean, variance = jax.tree.leaves(new)[1:]
        want = moments_of(DATA @ np.asarray(first).T)
        np.testing.assert_allclose(mean[0], want[0], rtol=1e-5)
        np.testing.assert_allclose(variance[0], want[1], rtol=1e-5)
        assert mean.shape == (2, 3) and not np.allclose(mean[0], mean[1])


def test_ways_to_call() -> None:
    """Models that are batched, take whole batches, or want a call of their own."""
    norm, state = nn.make_with_state(nn.BatchNorm)(3, "rows")
    for model, options in [
        (norm, {"axis_name": "rows"}),
        (nn.batched(norm, "rows"), {}),
        (norm, {"call": lambda m, x, s: nn.batched(m, "rows")(x["x"], s)}),
    ]:
        batches = [{"x": x} for x in BATCHES] if "call" in options else BATCHES
        new = nn.recalibrate(model, state, iter(batches), **options)
        assert_moments(norm, new, moments_of(DATA))
    whole, state = nn.make_with_state(nn.BatchNorm)(3, None)
    new = nn.recalibrate(whole, state, BATCHES, axis_name=None)
    assert_moments(whole, new, moments_of(DATA))


def test_refused() -> None:
    """No batch, no norm, nothing meant, and another model's state."""
    norm, state = nn.make_with_state(nn.BatchNorm)(3, "batch")
    with refuses(InputError, "recalibrate: there is no batch"):
        nn.recalibrate(norm, state, iter([]))
    linear, empty = nn.make_with_state(nn.Linear)(3, 2, key=jr.key(0))
    with refuses(StateError, "recalibrate: there are no running statistics", "Linear"):
        nn.recalibrate(linear, empty, BATCHES)
    with refuses(TreeError, "recalibrate: `where` means nothing"):
        nn.recalibrate(norm, state, BATCHES, where="head")
    with refuses(ForeignStateError, "batch_counter"):
        nn.recalibrate(norm, empty, BATCHES)
