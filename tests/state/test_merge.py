"""``merge_states``: the rules of slots, and what is refused."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.strategies import refuses
from vernal import nn
from vernal.errors import StateError, StateValueError


def total(values, _):
    return sum(values)


def weighted(values, sibling):
    weights = sibling("count")
    pairs = zip(values, weights, strict=True)
    return sum(v * w for v, w in pairs) / sum(weights)


class Average(nn.StatefulLayer):
    """A weighted average: its rule needs the counts of another slot."""

    count: nn.StateIndex
    mean: nn.StateIndex
    version: nn.StateIndex

    def __init__(self):
        self.count = nn.StateIndex(0.0, merge=total)
        self.mean = nn.StateIndex(jnp.zeros(2), merge=weighted)
        self.version = nn.StateIndex(3)


def states_of(model, state, *rows):
    found = []
    for count, mean in rows:
        new = copy.copy(state).set(model.count, count)
        found.append(new.set(model.mean, jnp.array([mean, -mean])))
    return found


@pytest.mark.parametrize("compile", [False, True])
def test_rules_and_siblings(compile):
    """Each slot follows its rule, which can ask for the layer's other slots."""
    model, state = nn.make_with_state(lambda: {"a": Average(), "b": Average()})()
    rows = [(1.0, 2.0), (3.0, 6.0)]
    states = states_of(model["b"], state, *rows)
    states = [s.set(model["a"].count, 1.0) for s in states]
    merge = jax.jit(nn.merge_states) if compile else nn.merge_states
    if compile:  # traced values are equal only if they are one
        states = [s.substate([i.count, i.mean]) for s in states for i in [model["b"]]]
    merged = merge(states)
    assert float(merged.get(model["b"].count)) == 4
    np.testing.assert_array_equal(merged.get(model["b"].mean), [5, -5])
    if not compile:
        assert float(merged.get(model["a"].count)) == 2
        assert int(merged.get(model["a"].version)) == 3
    assert all(s._values is not None for s in states)  # they stay usable


def test_slots_without_a_rule():
    """Equal values stay; others need a rule, and may be given one for all."""
    index, state = nn.split_state(nn.StateIndex({"key": jax.random.key(1), "n": 0}))
    same = nn.merge_states([state, copy.copy(state)])
    assert int(same.get(index)["n"]) == 0
    other = copy.copy(state).set(index, {"key": jax.random.key(1), "n": 1})
    with refuses(StateValueError, "`index` has no rule", "otherwise=lambda"):
        nn.merge_states([state, other])
    first = nn.merge_states([other, state], otherwise=lambda values, _: values[0])
    assert int(first.get(index)["n"]) == 1
    key = copy.copy(state).set(index, {"key": jax.random.key(2), "n": 0})
    with refuses(StateValueError, "`index` has no rule"):
        nn.merge_states([state, key])


def test_traced_values_without_a_rule():
    """Whether traced values are equal is not known, unless they are the same ones."""
    index, state = nn.split_state(nn.StateIndex(7))

    @jax.jit
    def once(state):
        return nn.merge_states([state, state])

    assert int(once(state).get(index)) == 7
    with refuses(StateValueError, "`index` has no rule"):
        jax.jit(nn.merge_states)([state, state])


def test_a_rule_of_the_wrong_form():
    """What a rule returns must fit the slot."""
    index = nn.StateIndex(jnp.zeros(2), merge=lambda values, _: jnp.stack(values))
    _, state = nn.split_state(index)
    with refuses(StateValueError, "merge_states", "`index`", "f32[2]", "f32[1,2]"):
        nn.merge_states([state])


def test_what_cannot_be_merged():
    """No state, no States, and States with other slots are refused."""
    _, state = nn.make_with_state(Average)()
    _, other = nn.make_with_state(nn.BatchNorm)(3, "batch")
    with refuses(StateError, "merge_states", "an empty sequence"):
        nn.merge_states([])
    with refuses(StateError, "merge_states", "no State"):
        nn.merge_states([state, {}])
    with refuses(StateError, "different slots", "states[1]", "batch_counter"):
        nn.merge_states([state, other])
