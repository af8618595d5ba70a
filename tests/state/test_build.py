"""Taking the state out of a model, and putting it back."""

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import Counted, Counter, Node, identical, indices, refuses
from vernal.errors import ForeignStateError, StateError
from vernal.nn import (
    State,
    StateIndex,
    delete_init_state,
    join_state,
    make_with_state,
    split_state,
)


class Net(vn.Module):
    first: Counter
    second: Counter
    weight: object

    def __init__(self, size=2, *, scale=1.0):
        self.first = Counter(jnp.zeros(size))
        self.second = Counter(0.0)
        self.weight = scale * jnp.ones(size)

    def __call__(self, x, state):
        x, state = self.first(x, state)
        x, state = self.second(x, state)
        return self.weight.sum() * x.sum(), state


def test_make_with_state():
    """The constructor's arguments are passed on; model and state come back."""
    model, state = make_with_state(Net)(3, scale=2.0)
    assert type(model) is Net and type(state) is State
    assert model.weight.tolist() == [2.0] * 3
    assert state.get(model.first.index).shape == (3,)


def test_it_is_split_after_construction():
    """`make_with_state(f)(x)` is `split_state(f(x))`, which runs f once."""
    make = Counted(Net)
    model, state = make_with_state(make)(2)
    also_model, also_state = split_state(Net(2))
    assert make.calls == 1
    for one, two in ((model, also_model), (state, also_state)):
        assert jax.tree.structure(one) == jax.tree.structure(two)
        assert bool(vn.tree_equal(one, two))


def test_any_callable_and_any_tree():
    """The callable may be a function, and its result any pytree."""
    tree, state = make_with_state(lambda n: {"layers": [Counter(n)], "n": n})(5)
    assert tree["n"] == 5 and int(state.get(tree["layers"][0].index)) == 5


def test_a_model_without_state():
    """It comes back as it is, with an empty state."""
    linear = Node(jnp.ones(2))
    model, state = split_state(linear)
    assert identical(model, linear) and jax.tree.leaves(state) == []


def test_initial_values_leave_the_model():
    """All initial values are stripped; the parameters are the very same arrays."""
    net = Net()
    model, _ = split_state(net)
    assert all(index.init is None for index in indices(model))
    assert jax.tree.leaves(model) == [net.weight]
    assert net.first.index.init is not None


def test_building_twice_gives_equal_structures():
    """Model and state have equal treedefs every time, and one compilation."""
    step = Counted(lambda model, state: model(1.0, state))
    jitted, plain = vn.filter_jit(step), jax.jit(step)
    pairs = [make_with_state(Net)() for _ in range(3)]
    for model, state in pairs:
        jitted(model, state)
    assert step.calls == 1
    for model, state in pairs:
        plain(model, state)
    assert step.calls == 2
    structures = {jax.tree.structure(pair) for pair in pairs}
    assert len(structures) == 1


def test_a_shared_layer_shares_its_state():
    """A layer at two places counts the calls at both."""
    counter = Counter(0)
    model, state = split_state([counter, counter, Counter(0)])
    assert len(jax.tree.leaves(state)) == 2
    for layer in model:
        _, state = layer(jnp.array(0), state)
    assert [int(state.get(layer.index)) for layer in model] == [2, 2, 1]


def test_join_undoes_split():
    """`split_state(join_state(m, s))` is (m, s), the arrays being the same."""
    model, state = make_with_state(Net)()
    _, state = model(1.0, state)
    again, same = split_state(join_state(model, state))
    assert identical(again, model) and identical(same, state)


def test_split_undoes_join():
    """`join_state(*split_state(tree))` has the tree's leaves, and splits alike."""
    tree = Net()
    joined = join_state(*split_state(tree))
    assert type(joined) is Net
    assert identical(jax.tree.leaves(joined), jax.tree.leaves(tree))
    assert jax.tree.structure(split_state(joined)) == jax.tree.structure(
        split_state(tree)
    )


def test_join_keeps_the_state_usable():
    """Joining reads the state and does not use it up."""
    model, state = make_with_state(Net)()
    join_state(model, state)
    assert int(state.get(model.second.index)) == 0


def test_a_trained_part_in_a_new_model():
    """In three lines a trained part goes into a new model with its state."""
    body, body_state = make_with_state(Net)()
    _, body_state = body(1.0, body_state)

    body = join_state(body, body_state)
    model, state = make_with_state(lambda: {"body": body, "head": Counter(7)})()

    assert int(state.get(model["body"].second.index)) == 1
    assert int(state.get(model["head"].index)) == 7
    _, state = model["body"](1.0, state)
    assert int(state.get(model["body"].second.index)) == 2


def test_one_part_twice():
    """A part joined twice gives two layers of their own; one joined once is shared."""
    body, state = make_with_state(Counter)(3)
    _, two = split_state([join_state(body, state), join_state(body, state)])
    assert len(jax.tree.leaves(two)) == 2
    joined = join_state(body, state)
    _, one = split_state([joined, joined])
    assert len(jax.tree.leaves(one)) == 1


def test_join_keeps_sharing():
    """Places that shared a slot share one after joining and splitting."""
    counter = Counter(0)
    model, state = split_state([counter, counter])
    joined = join_state(model, state)
    again, new = split_state(joined)
    assert len(jax.tree.leaves(new)) == 1
    _, new = again[0](jnp.array(0), new)
    assert int(new.get(again[1].index)) == 1


def test_join_with_a_larger_state():
    """The state may have more slots than the part; they are left out."""
    model, state = make_with_state(Net)()
    part, part_state = split_state(join_state(model.second, state))
    assert int(part_state.get(part.index)) == 0
    assert len(jax.tree.leaves(part_state)) == 1


def test_a_layer_added_since():
    """Layers that are new in the model keep their own initial values."""
    model, state = make_with_state(Net)()
    _, state = model(1.0, state)
    model = vn.tree_at(lambda m: m.second, model, Counter(9))
    model, state = split_state(join_state(model, state))
    assert int(state.get(model.second.index)) == 9
    assert state.get(model.first.index).tolist() == [1.0, 1.0]


def test_join_with_another_models_state():
    """A state without the slots of the model is refused."""
    model, _ = make_with_state(Net)()
    _, foreign = make_with_state(Counter)(0)
    with refuses(ForeignStateError, "`first.index` of Net", "a State of Counter"):
        join_state(model, foreign)


@pytest.mark.parametrize("again", [split_state, State])
def test_splitting_twice(again):
    """What was split before has nothing to split; the message says how to go on."""
    model, _ = make_with_state(Net)()
    with refuses(StateError, "`first.index` of Net has no initial value", "join_state"):
        again(model)


def test_delete_init_state():
    """`State(model)` and `delete_init_state` together are `make_with_state`."""
    net = Net()
    state = State(net)
    model = delete_init_state(net)
    assert all(index.init is None for index in indices(model))
    assert int(state.get(model.second.index)) == int(state.get(net.second.index)) == 0
    _, state = model(1.0, state)
    assert int(state.get(model.second.index)) == 1
    assert "first.index" in repr(state) and "State of Net" in repr(state)


def test_vmapped_construction():
    """A layer built under vmap has a stacked slot; its own call sees one of it."""
    model, state = make_with_state(lambda: vn.filter_vmap(Counter, axis_size=3)())()
    assert state.get(model.index).shape == (3,)
    call = vn.filter_vmap(model, in_axes=(None, 0))
    y, state = call(jnp.array(5), state)
    assert y.tolist() == [5, 5, 5] and state.get(model.index).tolist() == [1, 1, 1]
    again, same = split_state(join_state(model, state))
    assert identical(again, model) and identical(same, state)


def test_an_ensemble_of_models():
    """`make_with_state` under vmap stacks parameters and state alike."""
    scales = jnp.arange(3.0)
    make = vn.filter_vmap(lambda s: make_with_state(Net)(scale=s))
    models, states = make(scales)
    assert models.weight.shape == (3, 2)

    @vn.filter_vmap(in_axes=(vn.if_array(0), 0, None))
    def call(model, state, x):
        return model(x, state)

    ys, states = call(models, states, 1.0)
    assert ys.shape == (3,)
    counts = vn.filter_vmap(lambda m, s: s.get(m.second.index))(models, states)
    assert counts.tolist() == [1, 1, 1]


@pytest.mark.parametrize("jit", [jax.jit, vn.filter_jit])
def test_under_jit(jit):
    """Model and state may be made inside jit, as often as one likes."""
    made = jit(lambda: make_with_state(Net)())
    (model, state), (again, other) = made(), made()
    assert jax.tree.structure((model, state)) == jax.tree.structure((again, other))
    _, state = model(1.0, state)
    assert int(state.get(model.second.index)) == 1
    assert int(other.get(again.second.index)) == 0


def test_under_eval_shape():
    """An abstract model and state have the structure of real ones."""
    abstract = vn.filter_eval_shape(make_with_state(Net), 2)
    assert jax.tree.structure(abstract) == jax.tree.structure(make_with_state(Net)(2))
    assert abstract[1].get(abstract[0].first.index).shape == (2,)


def test_joining_under_jit():
    """Two parts out of one jitted `join_state` are two slots, or are refused."""
    join = vn.filter_jit(join_state)
    (a, a_state), (b, b_state) = (make_with_state(Counter)(n) for n in (1, 2))
    parts = join(a, a_state), join(b, b_state)
    try:
        model, state = split_state(parts)
    except StateError as error:
        assert "cannot tell" in str(error)
    else:
        assert [int(state.get(layer.index)) for layer in model] == [1, 2]


def test_constructing_under_jit_from_constants():
    """Two layers out of one jitted constructor are two slots, or are refused."""
    zeros = jnp.zeros(2)
    make = vn.filter_jit(lambda: StateIndex(zeros))
    try:
        _, state = split_state([make(), make()])
    except StateError as error:
        assert "cannot tell" in str(error)
    else:
        assert len(jax.tree.leaves(state)) == 2
