"""Trained models that are changed: layers replaced, added, dropped, taken over.

Each change is the three lines of the README; what is forgotten is refused by name.
"""

import copy

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal import nn
from vernal.errors import ForeignStateError, StateError

XS = jnp.arange(12.0).reshape(4, 3)


class Net(vn.Module):
    body: nn.Sequential
    head: nn.Sequential

    def __init__(self, key):
        self.body = nn.Sequential([nn.BatchNorm(3, "batch"), jnp.tanh])
        self.head = nn.Sequential([nn.Linear(3, 2, key=key)])

    def __call__(self, x, state):
        x, state = self.body(x, state)
        return self.head(x, state)


@pytest.fixture
def trained():
    model, state = nn.make_with_state(Net)(jr.key(0))
    _, state = nn.batched(model)(XS, state)
    return model, state


def mean(layer, state):
    return state.get(layer.batch_state_index)[0]


def assert_trains(model, state):
    """The model runs, under jit and grad, and its statistics move."""

    @jax.jit
    def step(model, state):
        def loss(model):
            ys, new = nn.batched(model)(XS + 1, state)
            return jnp.sum(ys**2), new

        return jax.grad(loss, has_aux=True)(model)

    _, new = step(model, state)
    assert nn.state_diff(state, new)


def test_a_new_head(trained):
    """A head with state of its own comes in; the body keeps its statistics."""
    model, state = trained
    head = nn.Sequential([nn.BatchNorm(3, "batch"), nn.Linear(3, 5, key=jr.key(1))])
    whole = nn.join_state(model, state)
    whole = vn.tree_at(lambda m: m.head, whole, head)
    model, state = nn.split_state(whole)
    np.testing.assert_array_equal(mean(model.body.layers[0], state), XS.mean(0))
    np.testing.assert_array_equal(mean(model.head.layers[0], state), 0)
    assert_trains(model, state)


def test_a_swapped_norm(trained):
    """Another norm takes the place of one: it starts anew, the old slots are gone."""
    model, state = trained
    whole = nn.join_state(model, state)
    new = nn.BatchNorm(3, "batch", mode="ema")
    whole = vn.tree_at(lambda m: m.body.layers[0], whole, new)
    model, state = nn.split_state(whole)
    assert state._layout.names == (
        "body.layers[0].ema_first_time_index",
        "body.layers[0].ema_state_index",
    )
    assert_trains(model, state)


def test_a_layer_more(trained):
    """A stateful layer is put between others."""
    model, state = trained
    whole = nn.join_state(model, state)
    longer = nn.Sequential([*whole.body.layers, nn.BatchNorm(3, "batch")])
    whole = vn.tree_at(lambda m: m.body, whole, longer)
    model, state = nn.split_state(whole)
    first, _, last = model.body.layers
    np.testing.assert_array_equal(mean(first, state), XS.mean(0))
    np.testing.assert_array_equal(mean(last, state), 0)
    assert_trains(model, state)


def test_a_layer_less(trained):
    """A dropped layer takes its slots with it: nothing has to be told of it."""
    model, state = trained
    model = vn.tree_at(lambda m: m.body.layers[0], model, nn.Identity())
    model, state = nn.split_state(nn.join_state(model, state))
    assert state._layout.names == ()
    ys, _ = nn.batched(model)(XS, state)
    assert ys.shape == (4, 2)


def test_a_pretrained_body(trained):
    """A part of one model goes into another one, with its statistics."""
    model, state = trained
    body = nn.join_state(model.body, state)
    new, new_state = nn.make_with_state(Net)(jr.key(5))
    new = vn.tree_at(lambda m: m.body, nn.join_state(new, new_state), body)
    new, new_state = nn.split_state(new)
    np.testing.assert_array_equal(mean(new.body.layers[0], new_state), XS.mean(0))
    assert_trains(new, new_state)
    np.testing.assert_array_equal(mean(model.body.layers[0], state), XS.mean(0))


def test_forgotten_steps(trained):
    """Each step that is forgotten gives an error with the slot and the call."""
    model, state = trained
    new = nn.BatchNorm(3, "batch", mode="ema")
    swapped = vn.tree_at(lambda m: m.body.layers[0], model, new)
    fix = "split_state(join_state(model, state))"
    with refuses(ForeignStateError, "a new slot", "body.layers[0].batch_counter", fix):
        nn.batched(swapped)(XS, copy.copy(state))
    with refuses(StateError, "body.layers[0].batch_counter", "join_state"):
        nn.split_state({"part": model, "more": nn.BatchNorm(3, "batch")})
    other, other_state = nn.make_with_state(lambda: {"norm": nn.BatchNorm(3, "b")})()
    with refuses(ForeignStateError, "`['norm'].batch_state_index`", "Net", fix):
        other["norm"](XS[0], state, inference=True)
    with refuses(ForeignStateError, "`['norm'].batch_counter`", "join_state"):
        nn.join_state(other, state)
    assert len(other_state._layout.names) == 2


NO_STATE = {
    "join_state": lambda model, state, bad: nn.join_state(model, bad),
    "reset": lambda model, state, bad: nn.reset(model, state, bad),
    "with_rows": lambda model, state, bad: nn.with_rows(bad, 3),
    "row_axes": lambda model, state, bad: nn.row_axes(bad),
    "reset_rows": lambda model, state, bad: nn.reset_rows(state, bad, jnp.ones(3)),
    "recalibrate": lambda model, state, bad: nn.recalibrate(model, bad, [XS]),
    "freeze": lambda model, state, bad: nn.freeze(model, bad, "head"),
    "unfreeze": lambda model, state, bad: nn.unfreeze(model, bad),
    "fold_norms": lambda model, state, bad: nn.fold_norms(model, bad),
    "bake": lambda model, state, bad: nn.bake(model, bad),
    "state_diff": lambda model, state, bad: nn.state_diff(state, bad),
}


@pytest.mark.parametrize("name", NO_STATE)
def test_what_is_no_state(trained, name):
    """A model in the place of a state, say, is refused by the name of the function."""
    for bad in (None, {}, trained[0]):
        words = (f"{name}: `", "is not a State", type(bad).__name__, "make_with_state")
        with refuses(StateError, *words):
            NO_STATE[name](*trained, bad)
