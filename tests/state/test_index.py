"""``StateIndex``: the place in a model that owns one slot of the state."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counter, Opaque, identical, refuses
from vernal._state.index import (
    Fresh,
    Kind,
    Slot,
    changed_index,
    is_index,
    renewed_index,
    same_arrays,
    strong,
)
from vernal.errors import StateValueError
from vernal.nn import StateIndex


def test_the_initial_value():
    """It is kept as given, as JAX arrays."""
    index = StateIndex({"a": jnp.ones(2), "b": [np.arange(3), None]})
    assert index.init["a"].tolist() == [1.0, 1.0]
    assert isinstance(index.init["b"][0], jax.Array) and index.init["b"][1] is None


SCALARS = {
    "int": (3, jnp.int32),
    "float": (3.0, jnp.float32),
    "bool": (True, jnp.bool_),
    "complex": (1j, jnp.complex64),
    "numpy": (np.int8(3), jnp.int8),
    "weak array": (jnp.asarray(3.0), jnp.float32),
}


@pytest.mark.parametrize("value, dtype", SCALARS.values(), ids=SCALARS)
def test_scalars_become_strong_arrays(value, dtype):
    """Numbers and weakly typed arrays become strongly typed arrays."""
    init = StateIndex(value).init
    assert isinstance(init, jax.Array) and init.dtype == dtype
    assert not init.weak_type and init.tolist() == np.asarray(value).tolist()


def test_keys_can_be_state():
    """PRNG keys of both kinds are taken as they are."""
    keys = StateIndex([jax.random.key(1), jax.random.PRNGKey(1)]).init
    assert jax.random.key_data(keys[0]).tolist() == keys[1].tolist()


def test_nothing_can_be_state():
    """A value without leaves is a value."""
    model, state = vn.nn.make_with_state(lambda: [StateIndex(None), StateIndex(())])()
    assert state.get(model[0]) is None or state.get(model[0]) == ()
    assert state.set(model[1], ()).get(model[1]) == ()


@pytest.mark.parametrize("value", ["text", Opaque(), {"a": [1, len]}, [jnp.ones, 1]])
def test_what_is_no_array(value):
    """A leaf that cannot be stored in an array is shown, with where to put it."""
    words = ("the initial value has a leaf that is no array", "of type", "static field")
    with refuses(StateValueError, *words):
        StateIndex(value)


def test_a_long_leaf_is_shown_short():
    """The text stays short whatever the leaf is."""
    with refuses(StateValueError, "no array"):
        StateIndex([Long()])


class Long:
    def __repr__(self):
        return "line\n" * 50


def test_each_index_is_a_slot_of_its_own():
    """Two indices are different however equal their values are."""
    a, b = StateIndex(0), StateIndex(0)
    assert a != b and a.marker != b.marker
    assert a == a and hash(a) == hash(a)
    assert jax.tree.structure(a) != jax.tree.structure(b)


def test_identity_survives_jax():
    """Through flattening, jit and vmap an index stays the one that it was."""
    index = StateIndex(jnp.zeros(2))
    for out in (
        jax.tree.map(lambda x: x, index),
        jax.jit(lambda i: i)(index),
        jax.vmap(lambda i: i)(index),
        copy.copy(index),
    ):
        assert out.marker == index.marker


def test_deep_copies_are_slots_of_their_own():
    """A deep copy, or a pickled one, is another layer; indices in it stay apart."""
    one, other = Counter(0), Counter(0)
    for again in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        a, b, c = again([one, other, one])
        markers = {x.index.marker for x in (a, b, c, one, other)}
        assert a.index.marker == c.index.marker and len(markers) == 4


def test_printing():
    """An index prints its initial value only."""
    assert repr(StateIndex(jnp.ones(2))) == "StateIndex(init=f32[2])"


def test_is_stripped():
    """An index knows whether its initial value was taken out."""
    index = StateIndex(0)
    assert not index.is_stripped
    assert vn.nn.delete_init_state(index).is_stripped


def test_it_is_frozen():
    """An index is immutable as any Module."""
    with pytest.raises(AttributeError):
        StateIndex(0).init = 1


def test_changed_and_renewed():
    """A copy with other fields, and one that is as before it was split."""
    index = StateIndex(jnp.ones(2), per_row=True)
    assert identical(changed_index(index), index)
    stripped = changed_index(index, init=None, is_stripped=True)
    assert stripped.is_stripped and stripped.kind == Kind(None, True)
    marker, value = Fresh(), jnp.zeros(2)
    again = renewed_index(stripped, marker, value)
    assert again.marker is marker and again.init is value and not again.is_stripped
    assert again.kind.per_row and type(again) is StateIndex


def test_what_is_an_index():
    """Only a StateIndex is one."""
    assert is_index(StateIndex(0)) and not is_index(Counter(0)) and not is_index(0)


def test_slots_are_values():
    """Equal paths and owners are equal slots."""
    assert Slot("a.b", "M") == Slot("a.b", "M") != Slot("a.b", "N")
    assert hash(Slot("a", "M")) == hash(Slot("a", "M"))


def test_fresh_identities_are_not():
    """A fresh identity is equal to itself only."""
    assert Fresh() != Fresh()


def test_constructed_under_jit():
    """Under jit an index notes that its identity may come out of several calls."""
    assert not StateIndex(0).marker.under_jit
    assert not vn.filter_vmap(Counter, axis_size=2)().index.marker.under_jit
    assert vn.filter_jit(Counter)().index.marker.under_jit
    assert vn.filter_jit(vn.filter_vmap(Counter, axis_size=2))().index.marker.under_jit


def test_constructed_under_jit_from_a_constant():
    """Also where the initial value is a constant that is not traced."""
    constant = jnp.zeros(2)
    made = vn.filter_jit(lambda: StateIndex(constant))()
    assert made.marker.under_jit


def test_same_arrays():
    """Two values are the same if they consist of the very same arrays."""
    a, b = jnp.ones(2), jnp.ones(2)
    assert same_arrays({"x": a}, {"x": a}) and not same_arrays([a], [b])


@pytest.mark.parametrize("value", [jnp.ones(2), jnp.asarray(1.0), jax.random.key(0)])
def test_strong(value):
    """Strong arrays and keys are returned as they are, weak ones converted."""
    out = strong(value)
    assert not getattr(out, "weak_type", False)
    assert out.dtype == value.dtype and out.shape == value.shape
    assert (out is value) == (not getattr(value, "weak_type", False))
