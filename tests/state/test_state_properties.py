"""Laws of State, over random models with shared layers and values of any kind."""

import copy
import pickle

import jax
import pytest
from hypothesis import given, strategies as st

import vernal as vn
from tests.strategies import (
    build,
    changed,
    identical,
    indices,
    layer_plans,
    trees,
)
from vernal.errors import ConsumedStateError
from vernal.nn import State, join_state, split_state


@st.composite
def models(draw):
    """A model without state, its state, and one of its indices."""
    plan = draw(layer_plans())
    model, state = split_state(build(plan))
    return model, state, draw(st.sampled_from(indices(model)))


def others(model, index):
    return [i for i in indices(model) if i.marker != index.marker]


@given(models())
def test_get_after_set(case):
    """What was set is got, with the very arrays."""
    _, state, index = case
    value = changed(state.get(index))
    assert identical(state.set(index, value).get(index), value)


@given(models())
def test_set_leaves_the_others(case):
    """Setting one slot leaves all other slots as they are."""
    model, state, index = case
    before = {i.marker: state.get(i) for i in indices(model)}
    state = state.set(index, changed(state.get(index)))
    for other in others(model, index):
        assert state.get(other) is before[other.marker]


@given(models())
def test_setting_what_is_there(case):
    """Setting a slot to its own value changes nothing."""
    _, state, index = case
    before = copy.copy(state)
    assert identical(state.set(index, state.get(index)), before)


@given(models())
def test_setting_twice(case):
    """Only the last of two values counts."""
    _, state, index = case
    first = changed(state.get(index))
    second = changed(first)
    once = copy.copy(state).set(index, second)
    assert identical(state.set(index, first).set(index, second), once)


@given(models())
def test_a_set_state_is_consumed(case):
    """After `set` the old object refuses everything, and its copy nothing."""
    _, state, index = case
    kept = copy.copy(state)
    value = state.get(index)
    new = state.set(index, changed(value))
    for use in (
        lambda: state.get(index),
        lambda: state.set(index, value),
        lambda: state.substate(index),
        lambda: state.update(new),
        lambda: kept.update(state),
        lambda: jax.tree.leaves(state),
        lambda: copy.copy(state),
    ):
        with pytest.raises(ConsumedStateError):
            use()
    assert identical(kept.get(index), value)


@given(models())
def test_substate_then_update(case):
    """Taking a substate and putting it back changes nothing."""
    model, state, _ = case
    before = copy.copy(state)
    for part in (model, model["two"], model["one"], ()):
        state = state.update(state.substate(part))
        assert identical(state, before)


@given(models())
def test_a_substate_has_the_slots_of_its_part(case):
    """A substate has just the slots whose indices are in the part."""
    model, state, _ = case
    part = model["two"]
    sub = state.substate(part)
    for index in indices(part):
        assert sub.get(index) is state.get(index)
    assert len(sub.tree_flatten()[0]) == len({i.marker for i in indices(part)})


@given(models())
def test_update_is_setting_each(case):
    """Updating by a substate is setting each of its slots."""
    model, state, _ = case
    slots = {i.marker: i for i in indices(model["two"])}
    sub, by_set = state.substate(model["two"]), copy.copy(state)
    for index in slots.values():
        value = changed(state.get(index))
        sub, by_set = sub.set(index, value), by_set.set(index, value)
    assert identical(state.update(sub), by_set)


@given(models())
def test_join_then_split(case):
    """`split_state(join_state(m, s))` is (m, s): structures and arrays."""
    model, state, index = case
    state = state.set(index, changed(state.get(index)))
    again = split_state(join_state(model, state))
    assert identical(again, (model, state))


@given(layer_plans())
def test_split_then_join(plan):
    """`join_state(*split_state(t))` has the leaves of t."""
    tree = build(plan)
    joined = join_state(*split_state(tree))
    assert identical(jax.tree.leaves(joined), jax.tree.leaves(tree))


@given(layer_plans())
def test_building_twice(plan):
    """The same plan gives equal treedefs, hashes and names every time."""
    one, two = (split_state(build(plan)) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(two))
    assert repr(one[1]) == repr(two[1])


@given(layer_plans())
def test_one_slot_for_each_layer(plan):
    """There are as many slots as there are different layers in the model."""
    _, places = plan
    _, state = split_state(build(plan))
    assert len(state.tree_flatten()[0]) == len(set(places))


@given(models())
def test_flatten_and_unflatten(case):
    """A State is a pytree: rebuilt from its leaves it is the same; with paths too."""
    _, state, _ = case
    leaves, treedef = jax.tree.flatten(state)
    assert identical(treedef.unflatten(leaves), state)
    pairs, same = jax.tree_util.tree_flatten_with_path(state)
    assert same == treedef and identical([x for _, x in pairs], leaves)
    assert len({path for path, _ in pairs}) == len(pairs)


@given(models())
def test_copies(case):
    """Copied, deep-copied and pickled states go on working with the model."""
    _, state, index = case
    pickled = pickle.loads(pickle.dumps(state))
    for other in (copy.copy(state), copy.deepcopy(state), pickled):
        assert jax.tree.structure(other) == jax.tree.structure(state)
        assert bool(vn.tree_equal(other, state))
        other.set(index, changed(other.get(index)))
    assert jax.tree.leaves(state) is not None  # not consumed by its copies


@given(models(), trees)
def test_a_substate_of_anything(case, tree):
    """What has no indices has an empty substate, and is no error."""
    _, state, _ = case
    assert jax.tree.leaves(state.substate(tree)) == []


@given(layer_plans())
def test_state_of_a_whole_model(plan):
    """`State(model)` collects the initial values, one for each layer, in order."""
    tree = build(plan)
    state = State(tree)
    for index in indices(tree):
        assert state.get(index) is index.init
    assert list(state._layout.names) == list(split_state(tree)[1]._layout.names)
