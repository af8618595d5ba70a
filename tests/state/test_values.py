"""``State.set`` and ``update``: which values fit into a slot, and what they cost."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, Counter, refuses
from vernal.errors import StateValueError
from vernal.nn import StateIndex, make_with_state


class Net(vn.Module):
    counter: Counter
    stats: StateIndex

    def __init__(self, size=3):
        self.counter = Counter(0)
        self.stats = StateIndex({"mean": jnp.zeros(size), "var": jnp.ones(size)})


@pytest.fixture
def net():
    return make_with_state(Net)()


MISFITS = {
    "shape": ({"mean": jnp.ones(4), "var": jnp.ones(3)}, "f32[4]"),
    "dtype": ({"mean": jnp.arange(3), "var": jnp.ones(3)}, "i32[3]"),
    "structure": ((jnp.ones(3), jnp.ones(3)), "(f32[3], f32[3])"),
    "missing": ({"mean": jnp.ones(3)}, "{'mean': f32[3]}"),
    "none": (None, "None"),
    "object": ({"mean": "text", "var": jnp.ones(3)}, "'text'"),
}


@pytest.mark.parametrize("value, shown", MISFITS.values(), ids=MISFITS)
def test_a_value_that_does_not_fit(net, value, shown):
    """Another shape, dtype or structure is refused: slot, expected, and got."""
    model, state = net
    words = ("new value of `stats`", "{'mean': f32[3], 'var': f32[3]}", shown)
    with refuses(StateValueError, *words):
        state.set(model.stats, value)


def test_a_large_value_that_does_not_fit():
    """The message stays short for values of many arrays."""
    big = {f"a rather long name {i}": jnp.zeros(i) for i in range(20)}
    model, state = make_with_state(Counter)(big)
    with refuses(StateValueError, "new value of `index`"):
        state.set(model.index, {**big, "more": jnp.ones(1)})
    with refuses(StateValueError, "gained an axis"):
        jax.tree.map(lambda x: x[None], state).get(model.index)


NUMBERS = [
    (jnp.float32, 2.5),
    (jnp.float32, 2),
    (jnp.float16, 2.5),
    (jnp.bfloat16, 2),
    (jnp.int32, 2),
    (jnp.int8, 2),
    (jnp.bool_, True),
    (jnp.complex64, 2.5),
]


@pytest.mark.parametrize("dtype, number", NUMBERS)
def test_numbers_fit_as_in_arithmetic(dtype, number):
    """A Python number is stored in the slot's dtype, as if added to an array."""
    model, state = make_with_state(Counter)(jnp.zeros((), dtype))
    value = state.set(model.index, number).get(model.index)
    assert (value.dtype, value.weak_type) == (dtype, False)
    assert value.item() == number


@pytest.mark.parametrize(
    "dtype, number", [(jnp.int32, 2.5), (jnp.bool_, 2), (jnp.float32, 1j)]
)
def test_numbers_of_another_kind_do_not_fit(dtype, number):
    """A float is no integer, and a number no bool: refused like other dtypes."""
    model, state = make_with_state(Counter)(jnp.zeros((), dtype))
    with refuses(StateValueError, "new value of `index`"):
        state.set(model.index, number)


def test_numpy_values_are_stored_as_jax_arrays(net):
    """NumPy values of the right dtype are taken."""
    model, state = net
    value = state.set(model.counter.index, np.int32(3)).get(model.counter.index)
    assert isinstance(value, jax.Array) and int(value) == 3


@pytest.mark.parametrize("value", [jnp.asarray(3), np.int32(3), 3], ids=repr)
def test_update_stores_strong_arrays(net, value):
    """What `update` puts in is made strong, like what `set` does."""
    model, state = net
    sub = jax.tree.map(lambda _: value, state.substate(model.counter))
    stored = state.update(sub).get(model.counter.index)
    assert isinstance(stored, jax.Array) and not stored.weak_type


def test_weak_values_do_not_compile_twice():
    """A loop that sets numbers or weak arrays is traced once."""

    def step(model, state):
        _ = state.get(model.index)
        return state.set(model.index, jnp.asarray(1.0) * 2.0)

    traced = Counted(step)
    jitted = vn.filter_jit(traced)
    model, state = make_with_state(lambda: Holder(0.0))()
    for _ in range(3):
        state = jitted(model, state)
    assert traced.calls == 1 and float(state.get(model.index)) == 2.0


class Holder(vn.Module):
    index: StateIndex

    def __init__(self, init):
        self.index = StateIndex(init)


def many(n):
    return make_with_state(lambda: [Counter(0) for _ in range(n)])()


def test_set_and_update_copy_nothing():
    """The one dictionary goes from State to State: `set` is O(1), `update` O(part)."""
    model, state = many(10)
    values = state._values
    for layer in model:
        state = state.set(layer.index, 1)
        assert state._values is values
    state = state.update(state.substate(model[:2]))
    assert state._values is values


def test_setting_all_slots_is_linear():
    """Each further `set` in a trace costs as many calls of functions as the others."""

    def calls(n):
        model, state = many(n)

        def set_all(state):
            for layer in model:
                state = state.set(layer.index, jnp.ones((), jnp.int32))
            return state

        seen = []
        sys.setprofile(lambda frame, *_: seen.append(frame.f_code.co_filename))
        try:
            jax.make_jaxpr(set_all)(state)
        finally:
            sys.setprofile(None)
        return sum("/_state/" in name for name in seen)

    calls(10)  # what JAX does only once
    first, second, third = map(calls, (100, 200, 300))
    assert third - second == second - first > 100
