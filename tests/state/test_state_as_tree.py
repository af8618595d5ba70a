"""``State`` as a pytree and as a value: paths, printing, copies, donation."""

import copy
import pickle

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import pytest

import vernal as vn
from tests.strategies import Counted, Counter, identical
from vernal.errors import StateError
from vernal.nn import State, make_with_state


def build(init=0):
    return make_with_state(lambda: {"a": [Counter(init)], "b": Counter(0)})()


def test_leaves_are_in_order():
    """The leaves are the values, in the order of the slots in the model."""
    _, state = build({"y": 2, "x": 1})
    assert [int(x) for x in jax.tree.leaves(state)] == [1, 2, 0]


def test_paths_name_the_slots():
    """`tree_flatten_with_path` shows each leaf under the name of its slot."""
    _, state = build({"x": 1})
    paths = [jtu.keystr(path) for path, _ in jtu.tree_leaves_with_path(state)]
    assert paths == ["[\"['a'][0].index\"]['x']", "[\"['b'].index\"]"]


def test_errors_of_jax_name_the_slots():
    """Where JAX complains about an argument, it gives the slot's name."""
    _, state = build()
    bad = jax.tree.map(lambda x: "text", state)
    with pytest.raises(TypeError, match=r"\['b'\]\.index|\['a'\]\[0\]\.index"):
        jax.jit(lambda s: s)(bad)


def test_mapping_keeps_the_slots():
    """`tree.map` gives a State of the same slots, whatever the leaves become."""
    _, state = build()
    doubled = jax.tree.map(lambda x: x + 1, state)
    assert type(doubled) is State
    assert jax.tree.structure(doubled) == jax.tree.structure(state)
    mask = jax.tree.map(lambda x: None, state)
    assert jax.tree.leaves(mask) == [] and type(mask) is State


def test_mapping_does_not_consume():
    """Flattening shares nothing that `set` would change."""
    model, state = build()
    mapped = jax.tree.map(lambda x: x, state)
    state = state.set(model["b"].index, 5)
    assert int(mapped.get(model["b"].index)) == 0


def test_tree_flatten_methods():
    """The documented methods are inverses."""
    _, state = build()
    values, keys = state.tree_flatten()
    assert identical(State.tree_unflatten(keys, values), state)


def test_structures():
    """States of equal models have equal treedefs; of other models other ones."""
    one, two = (build()[1] for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(two))
    _, other = make_with_state(lambda: [Counter(0), Counter(0)])()
    assert jax.tree.structure(one) != jax.tree.structure(other)
    model, state = build()
    part = state.substate(model["b"])
    assert jax.tree.structure(part) != jax.tree.structure(state)


def test_the_structure_says_whose_it_is():
    """Printed, a treedef of a State shows the model and its slots."""
    _, state = build()
    text = str(jax.tree.structure(state))
    assert "dict" in text and "['b'].index" in text


def test_printing():
    """A State is represented by a table of names."""
    _, state = build((jnp.ones((2, 3)), jnp.array(True)))
    assert repr(state).splitlines() == [
        "State of dict with 2 slots",
        "  ['a'][0].index  (f32[2,3], bool[])",
        "  ['b'].index     i32[]",
    ]


def test_printing_one_and_none():
    """One slot is one slot, and none are none."""
    _, one = make_with_state(Counter)(0)
    assert repr(one).splitlines()[0] == "State of Counter with 1 slot"
    _, none = make_with_state(lambda: [1])()
    assert repr(none) == "State of list with 0 slots"


def test_printing_large_values():
    """Each slot takes one row, however much it holds."""
    _, state = build({f"a rather long name {i}": jnp.ones(i) for i in range(9)})
    assert len(repr(state).splitlines()) == 3


def test_printing_other_leaves():
    """Structs, tracers, masks and keys are printed too."""
    _, state = build(jax.random.key(0))
    assert "key<fry>[]" in repr(state)
    assert "i32[]" in repr(jax.eval_shape(lambda: state))
    assert "True" in repr(jax.tree.map(lambda _: True, state))
    texts = []
    jax.jit(lambda s: texts.append(repr(s)))(state)
    assert texts == [repr(state)]


def test_printing_a_consumed_state():
    """An old State prints what replaced it, and is no error."""
    model, state = build()
    state.set(model["b"].index, 1)
    assert repr(state) == "State(replaced by `set` of `['b'].index`)"


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_belong_to_the_model(again):
    """Copies and pickles have the same slots and values, and go on by themselves."""
    model, state = build({"x": jnp.ones(2)})
    other = again(state)
    assert jax.tree.structure(other) == jax.tree.structure(state)
    other = other.set(model["b"].index, 3)
    assert int(state.get(model["b"].index)) == 0
    assert int(other.get(model["b"].index)) == 3


def test_model_and_state_are_copied_together():
    """Pickled or deep-copied as a pair, before or after the split, they still fit."""
    tree = [Counter(0), Counter(0)]
    for pair in (make_with_state(lambda: tree)(), (tree, State(tree))):
        for other in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
            model, state = other
            _, state = model[0](jnp.array(0), state)
            assert int(state.get(model[0].index)) == 1


def test_donation():
    """A donated state's arrays are gone; the new state takes their place."""
    model, state = build(jnp.zeros(3))
    old = state
    step = vn.filter_jit(lambda s: model["a"][0](1.0, s)[1], donate="all")
    for _ in range(3):
        state = step(state)
    assert state.get(model["a"][0].index).tolist() == [3.0] * 3
    assert old.get(model["a"][0].index).is_deleted()
    also = jax.jit(lambda s: model["a"][0](1.0, s)[1], donate_argnums=0)(state)
    assert also.get(model["a"][0].index).tolist() == [4.0] * 3
    assert state.get(model["a"][0].index).is_deleted()


def test_a_loop_compiles_once():
    """A step that takes and returns a state is traced once, with plain jit too."""
    for jit in (jax.jit, vn.filter_jit):
        model, state = make_with_state(Counter)({"n": 0, "x": 1.0, "b": True})
        step = Counted(lambda s, model=model: s.set(model.index, s.get(model.index)))
        jitted = jit(step)
        for _ in range(3):
            state = jitted(state)
        assert step.calls == 1


def test_a_state_is_hidden_from_nobody():
    """Filters and updates work on a State as on any pytree."""
    model, state = build({"x": jnp.ones(2), "n": jnp.array(1)})
    floats, rest = vn.partition(state, vn.is_inexact_array)
    assert len(jax.tree.leaves(floats)) == 1 and len(jax.tree.leaves(rest)) == 2
    assert identical(vn.combine(floats, rest), state)
    new = vn.apply_updates(state, jax.tree.map(jnp.ones_like, state))
    assert int(new.get(model["b"].index)) == 1


def test_reading_from_a_filtered_state():
    """A State with None in it, such as a gradient, is read or refused as what it is."""
    model, state = build({"x": jnp.ones(2), "n": jnp.array(1)})
    floats = vn.filter(state, vn.is_inexact_array)
    try:
        value = floats.get(model["a"][0].index)
    except StateError as error:
        assert "axis" not in str(error)
    else:
        assert value["n"] is None and value["x"].shape == (2,)
