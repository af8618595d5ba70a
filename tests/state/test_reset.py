"""``reset``: slots as they were, chosen in each way."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.strategies import Counter, refuses
from vernal import nn
from vernal.errors import ForeignStateError, StateError, TreeError


def build():
    body = nn.Sequential([nn.BatchNorm(3, "batch"), nn.Identity()])
    return {"body": body, "counter": Counter(5), "bias": jnp.ones(3)}


@pytest.fixture
def net():
    model, initial = nn.make_with_state(build)()
    norm = model["body"].layers[0]
    _, state = nn.batched(norm)(jnp.arange(6.0).reshape(2, 3), copy.copy(initial))
    state = state.set(model["counter"].index, 9)
    return model, state, initial


CHOICES = {
    "class": (nn.BatchNorm, "norm"),
    "base class": (nn.StatefulLayer, "norm"),
    "name": ("*body*", "norm"),
    "function": (lambda m: m["counter"], "counter"),
    "an index": (nn.StateIndex, "norm counter"),
    "all": (None, "norm counter"),
}


@pytest.mark.parametrize("case", CHOICES)
@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_reset(net, case, compiled):
    """The chosen slots are as at the start, the others as they were."""
    model, state, initial = net
    where, expected = CHOICES[case]
    run = jax.jit(lambda s, i: nn.reset(model, s, i, where))
    new = run(state, initial) if compiled else nn.reset(model, state, initial, where)
    count, moments = new.get(model["body"].layers[0].batch_counter), "norm" in expected
    assert int(count) == (0 if moments else 1)
    mean, _ = new.get(model["body"].layers[0].batch_state_index)
    np.testing.assert_array_equal(mean, 0 if moments else [1.5, 2.5, 3.5])
    assert int(new.get(model["counter"].index)) == (5 if "counter" in expected else 9)
    assert state._values is not None and initial._values is not None


def test_refused(net):
    """What has no slots, is nowhere, or belongs to another model is refused."""
    model, state, initial = net
    with refuses(StateError, "reset", "has no slots", "Identity"):
        nn.reset(model, state, initial, nn.Identity)
    with refuses(TreeError, "reset: `where` means nothing"):
        nn.reset(model, state, initial, "head")
    _, other = nn.make_with_state(Counter)(0)
    with refuses(ForeignStateError, "body"):
        nn.reset(model, state, other)
    with refuses(ForeignStateError, "body"):
        nn.reset(model, other, initial)
