"""Stack, Ensemble and batched beside what the source documents write by hand.

By hand, `state.substate(part)` restricts the state to a part of the model, the part is
called under `vmap` or `scan`, and `state.update(substate)` puts its new state back.
"""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import vernal as vn
from tests.world import x64
from vernal import nn

AXES = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}
COUNT = 3


def layer(key: Any) -> nn.Sequential:
    """A layer with parameters, running statistics and power iteration."""
    linear = nn.SpectralNorm(nn.Linear(4, 4, key=key), "weight", key=key)
    return nn.Sequential([linear, nn.BatchNorm(4, "batch"), jnp.tanh])


def many(key: Any) -> Any:
    return vn.filter_vmap(layer)(jr.split(key, COUNT))


class Model(vn.Module):
    """A part between two others, of which one has state, too."""

    before: nn.BatchNorm
    part: Any
    after: nn.Linear

    def __init__(self, key: Any) -> None:
        self.before = nn.BatchNorm(4, "batch")
        self.part = self.make_part(key)
        self.after = nn.Linear(4, 4, key=key)

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.before(x, state)
        x, state = self.call_part(x, state)
        return jnp.tensordot(x, self.after.weight, 1), state

    def on_batch(self, xs: Any, state: Any) -> Any:
        return jax.vmap(self, **AXES)(xs, state)

    def call_part(self, x: Any, state: Any) -> Any:
        return self.part(x, state)


class Stacked(Model):
    def make_part(self, key: Any) -> Any:
        return nn.Stack(layer, COUNT, key=key)


class StackedByHand(Model):
    def make_part(self, key: Any) -> Any:
        return many(key)

    def call_part(self, x: Any, state: Any) -> Any:
        arrays, rest = vn.partition(self.part, vn.is_array)
        step = lambda x, own: vn.combine(own[0], rest)(x, own[1])  # noqa: E731
        substate = state.substate(self.part)
        x, substate = jax.lax.scan(step, x, (arrays, substate))
        return x, state.update(substate)


class Together(Model):
    def make_part(self, key: Any) -> Any:
        return nn.Ensemble(layer, COUNT, key=key)


class TogetherByHand(Model):
    def make_part(self, key: Any) -> Any:
        return many(key)

    def call_part(self, x: Any, state: Any) -> Any:
        substate = state.substate(self.part)
        call = lambda part, substate: part(x, substate)  # noqa: E731
        ys, substate = vn.filter_vmap(call)(self.part, substate)
        return ys, state.update(substate)


class Split(Model):
    """Each member has an input of its own."""

    def make_part(self, key: Any) -> Any:
        return nn.Ensemble(layer, COUNT, split=True, key=key)

    def call_part(self, x: Any, state: Any) -> Any:
        return self.part(jnp.stack([x, 2 * x, x - 1]), state)


class SplitByHand(Model):
    def make_part(self, key: Any) -> Any:
        return many(key)

    def call_part(self, x: Any, state: Any) -> Any:
        xs = jnp.stack([x, 2 * x, x - 1])
        substate = state.substate(self.part)
        call = lambda part, x, substate: part(x, substate)  # noqa: E731
        ys, substate = vn.filter_vmap(call)(self.part, xs, substate)
        return ys, state.update(substate)


class InBatches(Model):
    """Its first part takes single examples, the other one the batch."""

    def make_part(self, key: Any) -> Any:
        return layer(key)

    def on_batch(self, xs: Any, state: Any) -> Any:
        xs, state = nn.batched(self.before)(xs, state)
        xs, state = nn.batched(self.part)(jnp.cumsum(xs, 0), state)
        return xs, state


class InBatchesByHand(InBatches):
    def on_batch(self, xs: Any, state: Any) -> Any:
        for part in (self.before, self.part):
            xs = xs if part is self.before else jnp.cumsum(xs, 0)
            substate = state.substate(part)
            xs, substate = jax.vmap(part, **AXES)(xs, substate)
            state = state.update(substate)
        return xs, state


PAIRS = {
    "Stack": (Stacked, StackedByHand),
    "Ensemble": (Together, TogetherByHand),
    "Ensemble, split": (Split, SplitByHand),
    "batched": (InBatches, InBatchesByHand),
}


def train(kind: Any) -> list[Any]:
    """Outputs, gradients and states of three steps, then outputs in inference."""
    model, state = nn.make_with_state(kind)(jr.key(0))

    def loss(model: Any, state: Any, xs: Any) -> Any:
        ys, state = model.on_batch(xs, state)
        return jnp.sum(jnp.sin(ys) ** 3), (ys, state)

    @jax.jit
    def step(model: Any, state: Any, xs: Any) -> Any:
        grads, (ys, state) = jax.grad(loss, has_aux=True)(model, state, xs)
        return jax.tree.map(lambda p, g: p - 0.1 * g, model, grads), state, grads, ys

    seen = []
    for seed in range(3):
        xs = jr.normal(jr.key(seed), (8, 4))
        model, state, *rest = step(model, state, xs)
        seen.append(jax.tree.leaves((rest, state)))
    model = nn.inference_mode(model)
    ys, state = jax.jit(lambda m, s, xs: m.on_batch(xs, s))(model, state, xs)
    return [*seen, jax.tree.leaves((ys, state))]


@pytest.mark.parametrize("name", PAIRS)
def test_it_is_what_one_writes_by_hand(name: str) -> None:
    """Outputs, gradients and states of a training are the same numbers."""
    with x64():
        ours, by_hand = (train(kind) for kind in PAIRS[name])
        assert len(ours) == 4
        for got, want in zip(ours, by_hand, strict=True):
            assert len(got) == len(want) > 1
            assert vn.tree_equal(got, want, rtol=1e-9, atol=1e-12)


class Counter(vn.Module):
    """The layer of the source document."""

    index: nn.StateIndex

    def __init__(self) -> None:
        self.index = nn.StateIndex(jnp.array(0))

    def __call__(self, x: Any, state: Any) -> Any:
        value = state.get(self.index)
        return x + value, state.set(self.index, value + 1)


@pytest.mark.relaxed  # as the document runs: it adds integers to floats
def test_the_counters_of_the_document() -> None:
    """Counters under vmap, as in the first document, are an Ensemble of counters."""
    counters, by_hand = nn.make_with_state(vn.filter_vmap(Counter, axis_size=2))()
    make = nn.make_with_state(nn.Ensemble)
    ensemble, state = make(lambda key: Counter(), 2, split=True, key=jr.key(0))
    x = jnp.array([5.0, -1.0])
    for count in range(3):
        substate = by_hand.substate(counters)
        want, substate = vn.filter_vmap(counters)(x, substate)
        by_hand = by_hand.update(substate)
        got, state = ensemble(x, state)
        assert vn.tree_equal(got, want) and vn.tree_equal(got, x + count)
        assert vn.tree_equal(jax.tree.leaves(state), jax.tree.leaves(by_hand))
        assert vn.tree_equal(jax.tree.leaves(state), [jnp.full(2, count + 1)])
