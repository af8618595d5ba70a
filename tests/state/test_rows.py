"""Slots of which each example of a batch has its own value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal import nn
from vernal.errors import StateError, StateValueError


class Sum(nn.StatefulLayer):
    """Adds up what each row was given, and counts the calls for all of them."""

    total: nn.StateIndex
    calls: nn.StateIndex

    def __init__(self, size=2):
        self.total = nn.StateIndex(jnp.zeros(size), per_row=True)
        self.calls = nn.StateIndex(0)

    def __call__(self, x, state):
        total = state.get(self.total) + x
        state = state.set(self.calls, state.get(self.calls) + 1)
        return total, state.set(self.total, total)


@pytest.fixture
def layer():
    return nn.make_with_state(Sum)()


def test_rows_are_apart_and_the_rest_is_shared(layer):
    """Each row adds up its own input, as without a batch; the counter is one."""
    layer, state = layer
    call, xs = jax.jit(nn.batched(layer)), np.arange(6.0).reshape(3, 2)
    state = nn.with_rows(state, 3)
    for i in range(1, 4):
        ys, state = call(xs, state)
        np.testing.assert_array_equal(ys, i * xs)
    assert {k.key: v.shape for (k,), v in jax.tree.leaves_with_path(state)} == {
        "calls": (),
        "total": (3, 2),
    }
    assert int(state.get(layer.calls)) == 3


def test_a_vmap_of_ones_own(layer):
    """`row_axes` are the axes in and out of a vmap."""
    layer, state = layer
    axes = nn.row_axes(state)
    assert jax.tree.leaves(axes) == [0]
    mapped = jax.vmap(layer, in_axes=(0, axes), out_axes=(0, axes))
    ys, state = mapped(jnp.ones((4, 2)), nn.with_rows(state, 4))
    assert ys.shape == (4, 2)
    assert nn.row_axes(state.substate(layer.calls)) is None


def test_a_batch_of_batches(layer):
    """Two batch axes take two calls, the inner size first."""
    layer, state = layer
    state = nn.with_rows(nn.with_rows(state, 3), 2)
    xs = jnp.arange(12.0).reshape(2, 3, 2)
    call = nn.batched(nn.batched(layer, "inner"), "outer")
    for i in range(1, 3):
        ys, state = call(xs, state)
        np.testing.assert_array_equal(ys, i * xs)


def test_reset_by_mask(layer):
    """Rows under the mask start anew, also in jit; others and shared slots stay."""
    layer, state = layer
    call, initial = nn.batched(layer), nn.with_rows(state, 3)
    _, state = call(jnp.ones((3, 2)), initial)
    mask = jnp.array([True, False, True])
    state = jax.jit(nn.reset_rows)(state, initial, mask)
    ys, state = call(jnp.ones((3, 2)), state)
    np.testing.assert_array_equal(ys[:, 0], [1, 2, 1])
    assert int(state.get(layer.calls)) == 2
    assert initial._values is not None  # and usable again


def test_rows_stay_rows_through_joining():
    """A part that is joined and split again keeps its slots per row."""
    layer, state = nn.make_with_state(Sum)()
    both, state = nn.split_state([nn.join_state(layer, state), Sum(3)])
    assert [k.per_row for k in state._layout.kinds] == [True, False] * 2
    ys, _ = nn.batched(both[1])(jnp.ones((5, 3)), nn.with_rows(state, 5))
    assert ys.shape == (5, 3)


def test_in_a_stack_and_an_ensemble():
    """Rows come before the axis of the layers."""

    def make(key):
        return Sum()

    for kind in (nn.Stack, nn.Ensemble):
        layer, state = nn.make_with_state(kind)(make, 4, key=jax.random.key(0))
        state = nn.with_rows(state, 3)
        _, state = nn.batched(layer)(jnp.ones((3, 2)), state)
        shapes = [x.shape for x in jax.tree.leaves(state)]
        assert sorted(shapes) == [(3, 4, 2), (4,)]


def test_a_forgotten_with_rows(layer):
    """The batch is refused by the name of the slot, with the way out."""
    layer, state = layer
    words = ("`total`", "(3,) in front", "(2,)", "with_rows(state, 3)")
    with refuses(StateValueError, *words):
        nn.batched(layer)(jnp.ones((3, 2)), state)
    with refuses(StateValueError, "reset_rows", *words[:2]):
        nn.reset_rows(state, state, jnp.ones(3, bool))


def test_bad_arguments(layer):
    """Wrong sizes, states without rows and other states are refused."""
    layer, state = layer
    for size in (0, 2.0, True):
        with refuses(StateError, "with_rows", "an int ≥ 1", repr(size)):
            nn.with_rows(state, size)
    _, shared = nn.make_with_state(nn.BatchNorm)(3, "batch")
    with refuses(StateError, "with_rows", "per_row=True"):
        nn.with_rows(shared, 3)
    with refuses(StateError, "reset_rows", "other slots"):
        nn.reset_rows(state, shared, jnp.ones(3, bool))


def test_what_differs_in_a_shared_slot_is_still_found(layer):
    """With rows beside it, a shared slot that differs between examples is named."""

    class Wrong(Sum):
        def __call__(self, x, state):
            return super().__call__(x, state.set(self.calls, jnp.int32(x[0])))

    layer, state = nn.make_with_state(Wrong)()
    with refuses(StateValueError, "`calls` differs between examples"):
        nn.batched(layer)(jnp.ones((3, 2)), nn.with_rows(state, 3))


def test_equal_kinds_are_one_layout():
    """The layouts of two builds are equal; a slot of another kind makes another."""
    one, two = (nn.make_with_state(Sum)()[1] for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    first = vn.nn.split_state([nn.StateIndex(0)])[1]
    second = vn.nn.split_state([nn.StateIndex(0, per_row=True)])[1]
    assert jax.tree.structure(first) != jax.tree.structure(second)


def test_reading_rows(layer):
    """Outside of a batch a slot with rows is refused; the way out gives the rows."""
    layer, state = layer
    state = nn.with_rows(state, 3)
    with refuses(StateValueError, "`total` gained an axis", "nn.row_axes(state)"):
        state.get(layer.total)
    axes = nn.row_axes(state)
    rows = jax.vmap(lambda s: s.get(layer.total), in_axes=(axes,))(state)
    assert rows.shape == (3, 2)
