"""``State``: reading, writing, handing over, and refusing what does not fit."""

import copy

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import Counter, Node, identical, indices, refuses
from vernal.errors import (
    ConsumedStateError,
    ForeignStateError,
    StateError,
    StateValueError,
)
from vernal.nn import State, StateIndex, make_with_state


class Net(vn.Module):
    counter: Counter
    stats: StateIndex

    def __init__(self, size=3):
        self.counter = Counter(0)
        self.stats = StateIndex({"mean": jnp.zeros(size), "var": jnp.ones(size)})


class Other(Net):
    """Has slots of the same names."""


@pytest.fixture
def net():
    return make_with_state(Net)()


def test_get_and_set(net):
    """`set` returns a State with the new value; other slots stay."""
    model, state = net
    mean = {"mean": jnp.ones(3), "var": jnp.ones(3)}
    state = state.set(model.stats, mean)
    assert identical(state.get(model.stats), mean)
    assert int(state.get(model.counter.index)) == 0


def test_the_counter_of_the_documents(net):
    """Called again and again, a layer sees what it left."""
    model, state = net
    for expected in (5, 6, 7):
        y, state = model.counter(jnp.array(5), state)
        assert int(y) == expected
    assert int(state.get(model.counter.index)) == 3


USES = {
    "get": lambda s, model: s.get(model.stats),
    "set": lambda s, model: s.set(model.counter.index, 1),
    "substate": lambda s, model: s.substate(model.counter),
    "update": lambda s, model: s.update(s),
    "flatten": lambda s, model: jax.tree.leaves(s),
    "copy": lambda s, model: copy.copy(s),
}


@pytest.mark.parametrize("verb, use", USES.items(), ids=USES)
def test_a_set_state_says_so(net, verb, use):
    """The old object names what replaced it, what was called, and the way out."""
    model, state = net
    state.set(model.counter.index, jnp.array(1))
    words = (
        f"State.{verb}: this State was replaced by `set` of `counter.index`",
        "state = state.set(",
        "copy.copy(state)",
    )
    with refuses(ConsumedStateError, *words):
        use(state, model)


@pytest.mark.parametrize("verb, use", USES.items(), ids=USES)
def test_an_updated_state_says_so(net, verb, use):
    """After `update` the same is said, with that verb and the slots put in."""
    model, state = net
    state.update(state.substate(model.stats))
    words = (f"State.{verb}: this State was replaced by `update` of `stats`", "fix:")
    with refuses(ConsumedStateError, *words):
        use(state, model)


@pytest.mark.parametrize("transform", [jax.jit, vn.filter_jit, jax.vmap, jax.grad])
def test_a_consumed_state_in_a_transformation(net, transform):
    """Passed to a transformed function, it says the same."""
    model, state = net
    state.set(model.counter.index, 1)
    with refuses(ConsumedStateError, "replaced by `set` of `counter.index`"):
        transform(lambda s: s)(state)


def test_a_state_consumed_inside_a_trace(net):
    """A function that goes on with an old state fails while it is traced."""
    model, state = net

    def forgetful(state):
        model.counter(jnp.array(0), state)
        return model.counter(jnp.array(0), state)

    with refuses(ConsumedStateError, "State.get", "`set` of `counter.index`"):
        jax.jit(forgetful)(state)
    assert int(state.get(model.counter.index)) == 0


def test_a_failed_set_consumes_nothing(net):
    """After an error the state can be used on."""
    model, state = net
    with refuses(StateValueError):
        state.set(model.counter.index, jnp.ones(3))
    with refuses(StateError):
        state.update("text")
    assert int(state.get(model.counter.index)) == 0


def test_a_copy_on_purpose(net):
    """`copy.copy` keeps a state; both go on by themselves."""
    model, state = net
    kept = copy.copy(state)
    state = state.set(model.counter.index, 5)
    kept = kept.set(model.counter.index, 7)
    assert int(state.get(model.counter.index)) == 5
    assert int(kept.get(model.counter.index)) == 7


def test_substate(net):
    """A substate has some of the slots, and taking it consumes nothing."""
    model, state = net
    sub = state.substate(model.counter)
    sub = sub.set(model.counter.index, 4)
    assert int(state.get(model.counter.index)) == 0
    assert int(sub.get(model.counter.index)) == 4
    with refuses(ForeignStateError, "`stats` of Net", "with: counter.index"):
        sub.get(model.stats)


def test_substate_of_an_index_or_a_list(net):
    """Any pytree of indices will do, also one with the same index twice."""
    model, state = net
    for part in (model.stats, [model.stats, model.stats], {"a": model.stats, "b": 1}):
        assert len(jax.tree.leaves(state.substate(part))) == 2


def test_update(net):
    """`update` puts all values of a substate in, which stays usable."""
    model, state = net
    sub = state.substate(model.counter).set(model.counter.index, 4)
    state = state.update(sub)
    assert int(state.get(model.counter.index)) == 4
    assert state.get(model.stats)["var"].tolist() == [1.0] * 3
    assert int(sub.get(model.counter.index)) == 4


def test_update_with_what_is_no_state(net):
    """Something else is refused, with how to get a substate."""
    _, state = net
    with refuses(StateError, "not a State", "state.substate(part)", "dict"):
        state.update({"counter": 1})


def test_update_with_a_consumed_substate(net):
    """A substate that was replaced is refused too."""
    model, state = net
    sub = state.substate(model.counter)
    sub.set(model.counter.index, 1)
    with refuses(ConsumedStateError, "replaced by `set` of `counter.index`"):
        state.update(sub)


@pytest.mark.parametrize("verb", ["get", "set", "substate"])
@pytest.mark.parametrize("key", [0, "counter", None])
def test_keys_that_are_no_index(net, verb, key):
    """A key of another type is told what it must be."""
    _, state = net
    if verb == "substate":
        assert jax.tree.leaves(state.substate(key)) == []
        return
    args = (key,) if verb == "get" else (key, 1)
    words = (f"State.{verb}: the key is not a StateIndex", type(key).__name__)
    with refuses(StateError, *words):
        getattr(state, verb)(*args)


def test_a_layer_is_no_key(net):
    """A layer passed in the place of its index is refused by its class."""
    model, state = net
    with refuses(StateError, "layer.index", "Counter"):
        state.get(model.counter)


@pytest.mark.parametrize("verb", ["get", "set", "substate"])
def test_a_state_of_another_class(net, verb):
    """The state of another model is refused, with both sides and the way out.

    Also where the other model has slots of the very same names.
    """
    _, state = net
    other, _ = make_with_state(Other)()
    index = other.counter.index
    args = (index, 1) if verb == "set" else (index,)
    words = (
        "`counter.index` of Other",
        "the State made together with Other",
        "a State of Net with: counter.index, stats",
        "make_with_state",
    )
    with refuses(ForeignStateError, *words):
        getattr(state, verb)(*args)


def test_update_with_another_models_state(net):
    """A substate of another model is refused, with both sides named."""
    _, state = net
    _, foreign = make_with_state(Other)()
    with refuses(ForeignStateError, "`counter.index` of Other", "a State of Net"):
        state.update(foreign)


def test_a_layer_that_was_never_split(net):
    """A new layer in a model has no slot; the message says how to give it one."""
    model, state = net
    model = vn.tree_at(lambda m: m.counter, model, Counter(0))
    with refuses(ForeignStateError, "split_state(join_state(model, state))"):
        model.counter(0, state)


def test_many_slots_are_shown_short():
    """A message about a state of many slots lists a few of them."""
    model, state = make_with_state(lambda: [Counter(0) for _ in range(100)])()
    other, _ = make_with_state(Net)()
    with refuses(ForeignStateError, "[3].index, …"):
        state.get(other.stats)
    del model


def test_a_model_of_another_size(net):
    """A state of the same class with other hyperparameters does not fit."""
    _, state = net
    other, _ = make_with_state(Net)(1)
    with refuses(StateValueError, "`stats`", "shape (1,)", "f32[3]"):
        state.get(other.stats)


def slip(layer, state, **axes):
    """Calls a layer under vmap and forgets that the state is not batched."""
    xs = jnp.arange(4)
    return jax.vmap(layer, in_axes=(0, None), **axes)(xs, state)[1]


def test_a_gained_axis_is_caught_by_get(net):
    """The next `get` says that an axis was gained, and what to pass to vmap."""
    model, state = net
    state = slip(model.counter, state)
    words = (
        "`counter.index` gained an axis",
        "shape ()",
        "i32[4]",
        "out_axes=(0, None)",
    )
    with refuses(StateValueError, *words):
        state.get(model.counter.index)


def test_a_gained_axis_is_caught_by_the_next_call(net):
    """Also under jit and inside another vmap, where the layer just runs again."""
    model, state = net
    state = slip(model.counter, state)
    for call in (model.counter, jax.jit(model.counter)):
        with refuses(StateValueError, "gained an axis"):
            call(0, state)
    with refuses(StateValueError, "gained an axis"):
        slip(model.counter, state)


def test_a_gained_axis_is_caught_by_set_and_update(net):
    """Setting without reading, or updating from a substate, notices it too."""
    model, state = net
    batched = slip(model.counter, state)
    with refuses(StateValueError, "`counter.index`", "a batch axis came in"):
        batched.set(model.counter.index, 1)
    sub = slip(model.counter, state.substate(model.counter))
    with refuses(StateValueError, "State.update", "`counter.index`", "out_axes=None"):
        state.update(sub)


def test_a_lost_axis(net):
    """A value with fewer axes is refused as well."""
    model, state = net
    state = jax.tree.map(lambda x: x.sum(), state)
    with refuses(StateValueError, "`stats` has another shape", "f32[]"):
        state.get(model.stats)


def test_a_batched_value_with_an_unbatched_state(net):
    """A value that differs between examples cannot leave vmap unbatched.

    JAX's message names the slot by its path.
    """
    model, state = net

    def bad(x, state):
        return x, state.set(model.counter.index, x)

    with pytest.raises(ValueError, match=r"counter\.index"):
        slip(bad, state, out_axes=(0, None))


def test_the_constructor(net):
    """`State(model)` collects the initial values of a model that has them."""
    tree = Net()
    state = State(tree)
    assert identical(state.get(tree.stats), tree.stats.init)
    assert State(Node(1)).tree_flatten()[0] == ()
    assert len({i.marker for i in indices(tree)}) == 2
